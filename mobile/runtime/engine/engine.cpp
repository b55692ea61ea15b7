#include "engine.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "program.h"
#include "threads.h"

namespace engine = edgeinfer::engine;

struct ei_cache {
  std::shared_ptr<engine::LoadedProgram> program;
  engine::Rings rings;
  std::vector<float> states;  // between the early and the late layers
};

namespace edgeinfer::engine {
namespace {

constexpr size_t kMaxPathBytes = 255;  // of a text option of an ExecuTorch backend

// One run of a method or two over a cache, with the arguments checked.
class Step {
 public:
  Step(ei_cache& cache, int64_t n, int64_t position)
      : cache_(cache),
        program_(*cache.program),
        info_(program_.info()),
        n_(n),
        turn_(program_, cache.rings, n, position) {}

  // `tapped` may be null.
  void forward(const int64_t* tokens, int64_t n_rows, float* logits, float* tapped) {
    check_range("the number of rows", n_rows, 0, std::min(n_, info_.max_rows));
    if (tapped && !info_.draft_n_taps) refuse("this program taps no states");
    if (program_.split_layer()) {
      cache_.states.resize(static_cast<size_t>(n_ * info_.hidden));
      front(tokens, cache_.states.data());
      verify(cache_.states.data(), n_rows, logits);
      return;
    }
    const Rows rows(n_, n_rows);
    const std::vector<TensorPtr> inputs = {tensor(checked(tokens, n_, info_), {1, n_}), turn_.place(), rows.tensor};
    const int64_t n_tapped = n_ * info_.draft_n_taps * info_.hidden;
    std::vector<int64_t> sizes = {rows.n() * info_.n_vocab};
    if (n_tapped) sizes.push_back(n_tapped);
    const std::vector<const float*> out = program_.run("forward", inputs, sizes);
    rows.copy(out[0], info_.n_vocab, logits);
    if (tapped) std::memcpy(tapped, out[1], static_cast<size_t>(n_tapped) * sizeof(float));
  }

  void front(const int64_t* tokens, float* states) {
    need_split();
    const std::vector<TensorPtr> inputs = {tensor(checked(tokens, n_, info_), {1, n_}), turn_.place()};
    const int64_t n_floats = n_ * info_.hidden;
    const float* out = program_.run("front", inputs, {n_floats})[0];
    std::memcpy(states, out, static_cast<size_t>(n_floats) * sizeof(float));
  }

  void exit_head(const float* state, float* logits) {
    if (!info_.exit_layer) refuse("this program has no exit layer");
    const float* out = program_.run("exit_head", {tensor(state, {1, 1, info_.hidden})}, {info_.n_vocab})[0];
    std::memcpy(logits, out, static_cast<size_t>(info_.n_vocab) * sizeof(float));
  }

  void verify(const float* states, int64_t n_rows, float* logits) {
    need_split();
    check_range("the number of rows", n_rows, 0, std::min(n_, info_.max_rows));
    const Rows rows(n_, n_rows);
    const std::vector<TensorPtr> inputs = {tensor(states, {1, n_, info_.hidden}), turn_.place(), rows.tensor};
    rows.copy(program_.run("verify", inputs, {rows.n() * info_.n_vocab})[0], info_.n_vocab, logits);
  }

 private:
  // The last `n_rows` of n. A method gives at least one row; it is dropped where none is wanted.
  struct Rows {
    Rows(int64_t n, int64_t n_rows) : wanted(n_rows) {
      for (int64_t row = n - std::max<int64_t>(1, n_rows); row < n; ++row) indices.push_back(row);
      tensor = engine::tensor(indices.data(), {static_cast<int64_t>(indices.size())});
    }
    int64_t n() const { return static_cast<int64_t>(indices.size()); }
    void copy(const float* from, int64_t n_vocab, float* to) const {
      if (wanted) std::memcpy(to, from, static_cast<size_t>(wanted * n_vocab) * sizeof(float));
    }
    int64_t wanted;
    std::vector<int64_t> indices;
    TensorPtr tensor;
  };

  void need_split() const {
    if (!program_.split_layer()) refuse("this program has no exit layer");
  }

  ei_cache& cache_;
  LoadedProgram& program_;
  const ei_info& info_;
  int64_t n_;
  Turn turn_;
};

}  // namespace
}  // namespace edgeinfer::engine

using engine::guarded;
using engine::Step;

ei_code ei_open(const char* path, const ei_options* options, ei_model** model, ei_error* error) {
  engine::capture_log();
  return guarded(error, [&] {
    if (options->size != sizeof(ei_options)) engine::refuse("ei_options is of another version of this header");
    if (options->packed_cache_path && std::strlen(options->packed_cache_path) > engine::kMaxPathBytes)
      engine::refuse("the path of the packed weights is longer than 255 bytes");
    engine::check_range("the K/V type", options->kv_type, EI_KV_F32, EI_KV_Q8);
    if (options->n_threads > 0) engine::set_pool_threads(options->n_threads);
    *model = new ei_model{std::make_shared<engine::LoadedProgram>(path, *options)};
  });
}

void ei_describe(const ei_model* model, ei_info* info) { *info = model->program->info(); }

void ei_close(ei_model* model) { delete model; }

ei_code ei_cache_new(ei_model* model, const ei_policy* policy, ei_cache** cache, ei_error* error) {
  return guarded(error, [&] {
    const ei_info& info = model->program->info();
    engine::check_policy(*policy, info);
    *cache = new ei_cache{model->program, engine::Rings(*policy, info, info.n_layers, model->program->kv_type()), {}};
  });
}

int64_t ei_cache_bytes(const ei_cache* cache) { return cache->rings.n_bytes(); }

void ei_cache_free(ei_cache* cache) { delete cache; }

ei_code ei_forward(ei_cache* cache, const int64_t* tokens, int64_t n, int64_t position, int64_t n_rows, float* logits,
                   ei_error* error) {
  return guarded(error, [&] { Step(*cache, n, position).forward(tokens, n_rows, logits, nullptr); });
}

ei_code ei_forward_tapped(ei_cache* cache, const int64_t* tokens, int64_t n, int64_t position, int64_t n_rows,
                          float* logits, float* tapped, ei_error* error) {
  return guarded(error, [&] { Step(*cache, n, position).forward(tokens, n_rows, logits, tapped); });
}

ei_code ei_draft(ei_cache* cache, int64_t token, int64_t position, float* logits, float* state, ei_error* error) {
  return guarded(error, [&] {
    Step step(*cache, 1, position);
    step.front(&token, state);
    step.exit_head(state, logits);
  });
}

ei_code ei_front(ei_cache* cache, const int64_t* tokens, int64_t n, int64_t position, float* states, ei_error* error) {
  return guarded(error, [&] { Step(*cache, n, position).front(tokens, states); });
}

ei_code ei_verify(ei_cache* cache, const float* states, int64_t n, int64_t position, int64_t n_rows, float* logits,
                  ei_error* error) {
  return guarded(error, [&] { Step(*cache, n, position).verify(states, n_rows, logits); });
}
