#include "program.h"

#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>

#include <algorithm>

#include "threads.h"
#include "vectors.h"

namespace edgeinfer::engine {
namespace {

using executorch::extension::Module;
using executorch::runtime::Error;

// Of edgeinfer/backends/executorch/export/program.py: without and with a taught draft.
constexpr int64_t kProgramVersion = 1, kDraftedVersion = 2;
constexpr char kXnnpack[] = "XnnpackBackend";

[[noreturn]] void fail(ei_code code, const std::string& what, Error cause) {
  std::string said = first_complaint();
  if (said.empty()) said = std::string(executorch::runtime::to_string(cause));
  throw Failure(code, what + ": " + said);
}

void check(Error error) {
  if (error != Error::Ok) fail(EI_ENGINE_ERROR, "an option was refused", error);
}

bool is_sound(const ei_info& info) {
  const bool model = info.n_layers > 0 && info.n_layers <= 4096 && info.n_kv_heads > 0 && info.n_kv_heads <= 4096 &&
                     info.head_dim > 0 && info.head_dim <= 1024 && info.head_dim % kLanes == 0 && info.hidden > 0 &&
                     info.hidden <= 1 << 20 && info.n_vocab > 0 && info.n_vocab <= 1 << 24 && info.limit > 0 &&
                     info.exit_layer >= 0 && info.exit_layer < info.n_layers && info.max_rows > 0 &&
                     info.max_tokens >= info.max_rows && info.max_tokens <= 4096;
  const bool draft = info.draft_n_ranked >= 0 && info.draft_n_ranked <= info.n_vocab && info.draft_n_taps >= 0 &&
                     info.draft_n_taps <= 8 && info.draft_exit_layer >= 0 && info.draft_exit_layer < info.n_layers;
  const bool one_kind = (info.draft_n_taps > 0) + (info.draft_exit_layer > 0) == (info.draft_n_ranked > 0);
  return model && draft && one_kind && !(info.exit_layer && info.draft_n_ranked);
}

}  // namespace

void refuse(const std::string& what) { throw Failure(EI_USAGE_ERROR, what); }

void check_range(const char* what, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most)
    refuse(std::string(what) + " is " + std::to_string(value) + "; it must be " + std::to_string(least) + " to " +
           std::to_string(most));
}

LoadedProgram::LoadedProgram(const char* path, const ei_options& options)
    : module_(path, Module::LoadMode::Mmap, nullptr, nullptr, nullptr, /*share_memory_arenas=*/true),
      kv_type_(static_cast<KvType>(options.kv_type)) {
  load(path, options.packed_cache_path);
  info_ = read_info(path);
  for (const std::string& method : methods()) {
    const Error error = module_.load_method(method);
    if (error != Error::Ok) fail(EI_ENGINE_ERROR, std::string(path) + " does not load its " + method, error);
  }
  if (options.packed_cache_path) save_packed_weights();
}

std::vector<const float*> LoadedProgram::run(const char* method, const std::vector<TensorPtr>& inputs,
                                             const std::vector<int64_t>& sizes) {
  std::vector<executorch::runtime::EValue> values;
  for (const TensorPtr& input : inputs) values.emplace_back(*input);
  auto outputs = module_.execute(method, values);
  if (!outputs.ok()) fail(EI_ENGINE_ERROR, std::string(method) + " failed", outputs.error());
  std::vector<const float*> found;
  for (size_t i = 0; i < sizes.size(); ++i) {
    if (i >= outputs->size() || !outputs->at(i).isTensor() || outputs->at(i).toTensor().numel() != sizes[i])
      throw Failure(EI_ARTIFACT_ERROR, std::string(method) + " gives another shape than the program declares");
    found.push_back(outputs->at(i).toTensor().const_data_ptr<float>());
  }
  return found;
}

void LoadedProgram::load(const char* path, const char* packed_cache_path) {
  executorch::runtime::BackendOptions<2> options;
  check(options.set_option("weight_cache_enabled", true));
  if (packed_cache_path) check(options.set_option("packed_cache_path", packed_cache_path));
  executorch::runtime::LoadBackendOptionsMap map;
  check(map.set_options(kXnnpack, options.view()));
  const Error error = module_.load(map, executorch::runtime::Program::Verification::InternalConsistency);
  if (error != Error::Ok) fail(EI_ARTIFACT_ERROR, std::string(path) + " is not a sound program", error);
}

void LoadedProgram::save_packed_weights() {
  executorch::runtime::BackendOptions<1> save;
  check(save.set_option("save_weight_cache_on_disk", true));
  (void)executorch::runtime::set_option(kXnnpack, save.view());  // without it the next load packs again
}

int64_t LoadedProgram::constant(const char* path, const char* name) {
  auto value = module_.get(name);
  if (!value.ok() || !value->isInt())
    fail(EI_ARTIFACT_ERROR, std::string(path) + " does not say its " + name + "; export the model again",
         value.ok() ? Error::InvalidType : value.error());
  return value->toInt();
}

ei_info LoadedProgram::read_info(const char* path) {
  const int64_t version = constant(path, "program_version");
  if (version < kProgramVersion || version > kDraftedVersion)
    throw Failure(EI_ARTIFACT_ERROR, std::string(path) + " is a program of version " + std::to_string(version) +
                                       "; this engine runs versions " + std::to_string(kProgramVersion) + " and " +
                                       std::to_string(kDraftedVersion));
  ei_info info{};
  info.n_layers = constant(path, "n_layers");
  info.n_kv_heads = constant(path, "n_kv_heads");
  info.head_dim = constant(path, "head_dim");
  info.hidden = constant(path, "hidden");
  info.n_vocab = constant(path, "n_vocab");
  info.limit = constant(path, "limit");
  info.exit_layer = constant(path, "exit_layer");
  info.max_tokens = constant(path, "max_tokens");
  info.max_rows = constant(path, "max_rows");
  if (version == kDraftedVersion) {
    info.draft_exit_layer = constant(path, "draft_exit_layer");
    info.draft_n_taps = constant(path, "draft_n_taps");
    info.draft_n_ranked = constant(path, "draft_n_ranked");
  }
  info.n_threads = n_pool_threads();
  if (!is_sound(info)) throw Failure(EI_ARTIFACT_ERROR, std::string(path) + " declares a shape that cannot be");
  return info;
}

std::vector<std::string> LoadedProgram::methods() const {
  std::vector<std::string> names = {"forward"};
  if (split_layer()) names = {"front", "verify"};
  if (info_.exit_layer) names.push_back("exit_head");
  if (info_.draft_n_ranked) names.push_back("draft_layer");
  if (info_.draft_n_taps) names.insert(names.end(), {"draft_known", "draft_input"});
  return names;
}

Turn::Turn(LoadedProgram& program, Rings& rings, int64_t n, int64_t position)
    : lock_(program.mutex()),
      running_(rings),
      place_{position, rings.policy.window, rings.policy.sink, rings.policy.block} {
  check_range("the number of tokens", n, 1, program.info().max_tokens);
  check_range("the position", position, 0, rings.policy.limit - n);
  const int64_t room = rings.window().room(position);
  if (n > room)
    refuse(std::to_string(n) + " tokens at position " + std::to_string(position) +
           " cross a block of the window: " + std::to_string(room) + " are possible");
}

const int64_t* checked(const int64_t* tokens, int64_t n, const ei_info& info) {
  for (int64_t i = 0; i < n; ++i)
    if (tokens[i] < 0 || tokens[i] >= info.n_vocab)
      refuse("token " + std::to_string(tokens[i]) + " is outside the vocabulary of " + std::to_string(info.n_vocab));
  return tokens;
}

void check_policy(const ei_policy& policy, const ei_info& info) {
  check_range("the limit", policy.limit, 1, info.limit);
  check_range("the block", policy.block, 1, policy.limit);
  check_range("the sink", policy.sink, 0, policy.limit);
  check_range("the window", policy.window, policy.block, policy.limit - policy.sink);
  if (policy.window % policy.block) refuse("the window must be a multiple of the block");
}

}  // namespace edgeinfer::engine
