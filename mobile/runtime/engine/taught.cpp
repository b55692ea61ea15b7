// A taught draft on one conversation: the inputs of its layer, the layer with K and V of its own, and its ranked head.
#include <algorithm>
#include <cstring>
#include <vector>

#include "program.h"

namespace engine = edgeinfer::engine;

struct ei_taught {
  std::shared_ptr<engine::LoadedProgram> program;
  engine::Rings rings;  // of one layer
};

namespace edgeinfer::engine {
namespace {

void copy(const float* from, int64_t n, float* to) {
  std::memcpy(to, from, static_cast<size_t>(n) * sizeof(float));
}

void need_taps(const ei_info& info, int64_t n) {
  if (!info.draft_n_taps) refuse("this program has no draft that taps states");
  check_range("the number of positions", n, 1, info.max_tokens);
}

void known(LoadedProgram& program, const float* tapped, int64_t n, float* out) {
  const ei_info& info = program.info();
  need_taps(info, n);
  const std::lock_guard<std::mutex> lock(program.mutex());
  const std::vector<TensorPtr> inputs = {tensor(tapped, {1, n, info.draft_n_taps * info.hidden})};
  copy(program.run("draft_known", inputs, {n * info.hidden})[0], n * info.hidden, out);
}

void input(LoadedProgram& program, const int64_t* tokens, const float* known, int64_t n, float* out) {
  const ei_info& info = program.info();
  need_taps(info, n);
  const std::lock_guard<std::mutex> lock(program.mutex());
  const std::vector<TensorPtr> inputs = {tensor(checked(tokens, n, info), {1, n}), tensor(known, {1, n, info.hidden})};
  copy(program.run("draft_input", inputs, {n * info.hidden})[0], n * info.hidden, out);
}

void layer(ei_taught& draft, const float* inputs, int64_t n, int64_t position, int64_t first, float* logits,
           float* state) {
  const ei_info& info = draft.program->info();
  check_range("the first position", first, 0, position);
  const Turn turn(*draft.program, draft.rings, n, position);
  draft.rings.first = first;
  const int64_t row = n - 1;
  const std::vector<TensorPtr> all = {tensor(inputs, {1, n, info.hidden}), turn.place(), tensor(&row, {1})};
  const std::vector<const float*> out = draft.program->run("draft_layer", all, {info.draft_n_ranked, info.hidden});
  copy(out[0], info.draft_n_ranked, logits);
  copy(out[1], info.hidden, state);
}

}  // namespace
}  // namespace edgeinfer::engine

using engine::guarded;

ei_code ei_taught_new(ei_model* model, const ei_policy* policy, ei_taught** draft, ei_error* error) {
  return guarded(error, [&] {
    const ei_info& info = model->program->info();
    if (!info.draft_n_ranked) engine::refuse("this program has no taught draft");
    engine::check_policy(*policy, info);
    *draft = new ei_taught{model->program, engine::Rings(*policy, info, 1, model->program->kv_type())};
  });
}

void ei_taught_free(ei_taught* draft) { delete draft; }

ei_code ei_taught_known(ei_taught* draft, const float* tapped, int64_t n, float* known, ei_error* error) {
  return guarded(error, [&] { engine::known(*draft->program, tapped, n, known); });
}

ei_code ei_taught_input(ei_taught* draft, const int64_t* tokens, const float* known, int64_t n, float* inputs,
                        ei_error* error) {
  return guarded(error, [&] { engine::input(*draft->program, tokens, known, n, inputs); });
}

ei_code ei_taught_layer(ei_taught* draft, const float* inputs, int64_t n, int64_t position, int64_t first,
                        float* logits, float* state, ei_error* error) {
  return guarded(error, [&] { engine::layer(*draft, inputs, n, position, first, logits, state); });
}
