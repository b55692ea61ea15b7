// K and V of one conversation: in each layer a ring of `window + sink` slots, as window.h places positions.
#pragma once

#include <cstdint>
#include <vector>

#include "engine.h"
#include "storage.h"
#include "window.h"

namespace edgeinfer::engine {

class Rings {
 public:
  Rings(const ei_policy& policy, const ei_info& info, int64_t n_layers, KvType kv_type)
      : policy(policy), n_kv_heads(info.n_kv_heads), head_dim(info.head_dim), kv_type(kv_type), layers_(n_layers) {
    const size_t n = static_cast<size_t>(n_kv_heads * head_bytes());
    for (Layer& layer : layers_) {
      layer.keys.resize(n);
      layer.values.resize(n);
    }
  }

  struct Layer {
    std::vector<char> keys;  // [n_kv_heads, slots] rows
    std::vector<char> values;
  };

  WindowPolicy window() const { return {policy.window, policy.sink, policy.block, policy.limit}; }
  int64_t row_bytes() const { return engine::row_bytes(kv_type, head_dim); }
  int64_t head_bytes() const { return window().slots() * row_bytes(); }
  int64_t n_layers() const { return static_cast<int64_t>(layers_.size()); }
  int64_t n_bytes() const { return 2 * n_layers() * n_kv_heads * head_bytes(); }
  Layer& layer(int64_t index) { return layers_[static_cast<size_t>(index)]; }

  const ei_policy policy;
  const int64_t n_kv_heads;
  const int64_t head_dim;
  const KvType kv_type;
  int64_t first = 0;  // no key lies before this position

 private:
  std::vector<Layer> layers_;
};

// The rings that operators of this thread read and write while a method runs.
class RunningRings {
 public:
  explicit RunningRings(Rings& rings) : before_(current_) { current_ = &rings; }
  ~RunningRings() { current_ = before_; }
  RunningRings(const RunningRings&) = delete;
  RunningRings& operator=(const RunningRings&) = delete;

  static Rings* current() { return current_; }

 private:
  static thread_local Rings* current_;
  Rings* before_;
};

}  // namespace edgeinfer::engine
