// The operators of exported programs (edgeinfer/backends/executorch/export/operators.py) over the rings of the
// conversation that runs on this thread. What a damaged program could ask for is refused here.
#include <executorch/runtime/kernel/kernel_includes.h>
#include <executorch/runtime/kernel/operator_registry.h>
#include <executorch/runtime/kernel/thread_parallel_interface.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "attention.h"
#include "rings.h"

namespace edgeinfer::engine {

thread_local Rings* RunningRings::current_ = nullptr;

namespace {

using executorch::aten::ScalarType;
using executorch::aten::Tensor;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Kernel;
using executorch::runtime::KernelRuntimeContext;
using executorch::runtime::resize_tensor;
using executorch::runtime::Span;

constexpr int kTileRows = 4;
constexpr int64_t kSerialWork = 1 << 16;  // below this many products a second thread costs more than it saves

bool is_float(const Tensor& tensor, int64_t dims) {
  return tensor.scalar_type() == ScalarType::Float && tensor.dim() == dims;
}

bool is_place(const Tensor& tensor) { return tensor.scalar_type() == ScalarType::Long && tensor.numel() == 4; }

Tensor& rotation_out(KernelRuntimeContext& context, const Tensor& states, const Tensor& place,
                     const Tensor& frequencies, Tensor& out) {
  ET_KERNEL_CHECK_MSG(context, states.dim() == 3 && is_place(place) && is_float(out, 3), InvalidArgument, out,
                      "rotation: states [1, T, hidden] and place [4] are needed");
  ET_KERNEL_CHECK_MSG(context, frequencies.scalar_type() == ScalarType::Double && frequencies.dim() == 1,
                      InvalidArgument, out, "rotation: frequencies must be float64 [head_dim / 2]");
  const int64_t n_tokens = states.size(1), half = frequencies.size(0);
  const executorch::aten::SizesType sizes[] = {2, static_cast<executorch::aten::SizesType>(n_tokens),
                                               static_cast<executorch::aten::SizesType>(half)};
  ET_KERNEL_CHECK(context, resize_tensor(out, {sizes, 3}) == Error::Ok, InvalidArgument, out);
  const int64_t position = place.const_data_ptr<int64_t>()[0];
  const double* radians = frequencies.const_data_ptr<double>();
  float* cosines = out.mutable_data_ptr<float>();
  float* sines = cosines + n_tokens * half;
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position + t) * radians[i];
      cosines[t * half + i] = static_cast<float>(std::cos(angle));
      sines[t * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  return out;
}

// One call of ring_attend, after its checks.
struct Attention {
  const float* q;
  const float* k;
  const float* v;
  const float* cosines;  // [T, head_dim / 2]
  const float* sines;
  int64_t position;
  int64_t n_tokens;
  int64_t n_heads;
  Rings& rings;
  Rings::Layer& layer;
  float* out;

  void turn(const float* from, int64_t token, float scale, float* to) const {
    const int64_t half = rings.head_dim / 2;
    const float* c = cosines + token * half;
    const float* s = sines + token * half;
    for (int64_t i = 0; i < half; ++i) {
      const float a = from[i], b = from[i + half];
      to[i] = (a * c[i] - b * s[i]) * scale;
      to[i + half] = (b * c[i] + a * s[i]) * scale;
    }
  }

  void write_keys_and_values() const {
    const int64_t dim = rings.head_dim;
    std::vector<float> turned(static_cast<size_t>(dim));
    for (int64_t t = 0; t < n_tokens; ++t) {
      const int64_t slot = rings.window().slot(position + t);
      for (int64_t head = 0; head < rings.n_kv_heads; ++head) {
        const int64_t from = (t * rings.n_kv_heads + head) * dim;
        const int64_t to = head * rings.head_bytes() + slot * rings.row_bytes();
        turn(k + from, t, 1.0f, turned.data());
        store_row(rings.kv_type, turned.data(), dim, &layer.keys[to]);
        store_row(rings.kv_type, v + from, dim, &layer.values[to]);
      }
    }
  }

  int64_t n_visible(int64_t token) const {
    const WindowPolicy window = rings.window();
    const int64_t p = position + token;
    return std::max<int64_t>(0, std::min(window.sink, p + 1) - rings.first) +
           std::max<int64_t>(0, p + 1 - std::max({window.sink, window.oldest(p), rings.first}));
  }

  // The slots that the last token sees, by position. All tokens of a forward see keys from the same one on.
  std::vector<int32_t> visible_slots() const {
    const WindowPolicy window = rings.window();
    const int64_t last = position + n_tokens - 1;
    std::vector<int32_t> slots;
    slots.reserve(static_cast<size_t>(window.slots() + kLanes));
    for (int64_t p = rings.first; p < std::min(window.sink, last + 1); ++p) slots.push_back(static_cast<int32_t>(p));
    for (int64_t p = std::max({window.sink, window.oldest(last), rings.first}); p <= last; ++p)
      slots.push_back(static_cast<int32_t>(window.slot(p)));
    while (slots.size() % kLanes) slots.push_back(slots.back());
    return slots;
  }

  // `n_rows` tokens from `first` on, for the queries that share K/V head `kv_head`.
  void attend(int64_t kv_head, int64_t first, int64_t n_rows, const std::vector<int32_t>& slots) const {
    const int64_t dim = rings.head_dim, per_kv = n_heads / rings.n_kv_heads, n_queries = n_rows * per_kv;
    const int n_slots = static_cast<int>(slots.size());
    thread_local std::vector<float> queries, scores;
    thread_local std::vector<int> n_keys;
    thread_local std::vector<float*> outputs;
    queries.resize(static_cast<size_t>(n_queries * dim));
    scores.resize(static_cast<size_t>(n_queries * n_slots));
    n_keys.resize(static_cast<size_t>(n_queries));
    outputs.resize(static_cast<size_t>(n_queries));
    const float scale = 1.0f / std::sqrt(static_cast<float>(dim));
    for (int64_t i = 0; i < n_queries; ++i) {
      const int64_t token = first + i / per_kv, at = (token * n_heads + kv_head * per_kv + i % per_kv) * dim;
      turn(q + at, token, scale, &queries[i * dim]);
      n_keys[i] = static_cast<int>(n_visible(token));
      outputs[i] = out + at;
    }
    const int64_t head = kv_head * rings.head_bytes();
    attend_tile()({queries.data(), n_keys.data(), static_cast<int>(n_queries), slots.data(), n_slots, rings.kv_type,
                   layer.keys.data() + head, layer.values.data() + head, static_cast<int>(dim), scores.data(), n_slots,
                   outputs.data()});
  }

  bool run() const {
    write_keys_and_values();
    const std::vector<int32_t> slots = visible_slots();
    const int64_t n_tiles = (n_tokens + kTileRows - 1) / kTileRows, n_jobs = n_tiles * rings.n_kv_heads;
    const auto job = [&](int64_t begin, int64_t end) {
      for (int64_t index = begin; index < end; ++index) {
        const int64_t first = index / rings.n_kv_heads * kTileRows;
        attend(index % rings.n_kv_heads, first, std::min<int64_t>(kTileRows, n_tokens - first), slots);
      }
    };
    const int64_t work = n_tokens * n_heads * rings.head_dim * static_cast<int64_t>(slots.size());
    if (work < kSerialWork) {
      job(0, n_jobs);
      return true;
    }
    return executorch::extension::parallel_for(0, n_jobs, 1, job);
  }
};

Tensor& ring_attend_out(KernelRuntimeContext& context, const Tensor& q, const Tensor& k, const Tensor& v,
                        const Tensor& rotation, const Tensor& place, int64_t layer, Tensor& out) {
  Rings* rings = RunningRings::current();
  ET_KERNEL_CHECK_MSG(context, rings != nullptr, InvalidState, out, "ring_attend: no conversation runs here");
  const int64_t n_tokens = q.dim() == 4 ? q.size(1) : 0, n_heads = q.dim() == 4 ? q.size(2) : 0;
  const int64_t dim = rings->head_dim;
  ET_KERNEL_CHECK_MSG(context,
                      is_float(q, 4) && is_float(k, 4) && is_float(v, 4) && is_float(rotation, 3) && is_place(place) &&
                          is_float(out, 4) && q.size(3) == dim && k.size(3) == dim && v.size(3) == dim &&
                          k.size(2) == rings->n_kv_heads && v.size(2) == rings->n_kv_heads && n_heads > 0 &&
                          n_heads % rings->n_kv_heads == 0 && k.size(1) == n_tokens && v.size(1) == n_tokens &&
                          rotation.size(0) == 2 && rotation.size(1) == n_tokens && rotation.size(2) * 2 == dim &&
                          layer >= 0 && layer < rings->n_layers(),
                      InvalidArgument, out, "ring_attend: the program is not of the shape that it declares");
  const int64_t* where = place.const_data_ptr<int64_t>();
  const WindowPolicy window = rings->window();
  ET_KERNEL_CHECK_MSG(context,
                      where[0] >= 0 && where[1] == window.window && where[2] == window.sink && where[3] == window.block,
                      InvalidArgument, out, "ring_attend: the window is not that of the cache");
  ET_KERNEL_CHECK_MSG(context, n_tokens >= 1 && n_tokens <= window.room(where[0]), InvalidArgument, out,
                      "ring_attend: %lld tokens at position %lld cross a block of the window",
                      static_cast<long long>(n_tokens), static_cast<long long>(where[0]));
  ET_KERNEL_CHECK(context, resize_tensor(out, q.sizes()) == Error::Ok, InvalidArgument, out);
  const float* turns = rotation.const_data_ptr<float>();
  const Attention attention{q.const_data_ptr<float>(),
                            k.const_data_ptr<float>(),
                            v.const_data_ptr<float>(),
                            turns,
                            turns + n_tokens * dim / 2,
                            where[0],
                            n_tokens,
                            n_heads,
                            *rings,
                            rings->layer(layer),
                            out.mutable_data_ptr<float>()};
  ET_KERNEL_CHECK(context, attention.run(), Internal, out);
  return out;
}

void call_rotation(KernelRuntimeContext& context, Span<EValue*> stack) {
  rotation_out(context, stack[0]->toTensor(), stack[1]->toTensor(), stack[2]->toTensor(), stack[3]->toTensor());
}

void call_ring_attend(KernelRuntimeContext& context, Span<EValue*> stack) {
  ring_attend_out(context, stack[0]->toTensor(), stack[1]->toTensor(), stack[2]->toTensor(), stack[3]->toTensor(),
                  stack[4]->toTensor(), stack[5]->toInt(), stack[6]->toTensor());
}

const Kernel kKernels[] = {Kernel("edgeinfer::rotation.out", call_rotation),
                           Kernel("edgeinfer::ring_attend.out", call_ring_attend)};
[[maybe_unused]] const auto kRegistered = executorch::runtime::register_kernels({kKernels, 2});

}  // namespace
}  // namespace edgeinfer::engine
