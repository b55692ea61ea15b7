#include "engine.h"

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>
#include <executorch/runtime/backend/interface.h>
#include <executorch/runtime/backend/options.h>

#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "attention.h"
#include "log.h"
#include "rings.h"

// The wheel exports these symbols, but has no header for them (extension/threadpool/threadpool.h, 1.5.1).
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t n_threads);
  size_t get_thread_count() const;
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace edgeinfer {
namespace {

using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::EValue;
using executorch::runtime::Program;

constexpr int64_t kProgramVersion = 1;  // of edgeinfer/backends/executorch/export/program.py
constexpr size_t kMaxPathBytes = 255;   // of a text option of an ExecuTorch backend
constexpr char kXnnpack[] = "XnnpackBackend";

struct Failure : std::exception {
  Failure(ei_code code, std::string message) : code(code), message(std::move(message)) {}
  const char* what() const noexcept override { return message.c_str(); }
  ei_code code;
  std::string message;
};

[[noreturn]] void fail(ei_code code, const std::string& what, Error cause) {
  std::string said = first_complaint();
  if (said.empty()) said = std::string(executorch::runtime::to_string(cause));
  throw Failure(code, what + ": " + said);
}

[[noreturn]] void refuse(const std::string& what) { throw Failure(EI_USAGE_ERROR, what); }

std::string of_range(const char* what, int64_t value, int64_t least, int64_t most) {
  return std::string(what) + " is " + std::to_string(value) + "; it must be " + std::to_string(least) + " to " +
         std::to_string(most);
}

void check_range(const char* what, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most) refuse(of_range(what, value, least, most));
}

}  // namespace

// One loaded file. Methods run one at a time.
class LoadedProgram {
 public:
  LoadedProgram(const char* path, const ei_options& options)
      : module_(path, Module::LoadMode::Mmap, nullptr, nullptr, nullptr, /*share_memory_arenas=*/true),
        kv_type_(static_cast<KvType>(options.kv_type)) {
    load(path, options.packed_cache_path);
    info_ = read_info(path);
    methods_ = info_.exit_layer ? std::vector<std::string>{"front", "exit_head", "verify"}
                                : std::vector<std::string>{"forward"};
    for (const std::string& method : methods_) {
      const Error error = module_.load_method(method);
      if (error != Error::Ok) fail(EI_ENGINE_ERROR, std::string(path) + " does not load its " + method, error);
    }
    if (options.packed_cache_path) save_packed_weights();
  }

  const ei_info& info() const { return info_; }
  std::mutex& mutex() { return mutex_; }
  KvType kv_type() const { return kv_type_; }

  // The first output of `method`, valid until the next run.
  const float* run(const char* method, const std::vector<EValue>& inputs, int64_t n_floats) {
    auto outputs = module_.execute(method, inputs);
    if (!outputs.ok()) fail(EI_ENGINE_ERROR, std::string(method) + " failed", outputs.error());
    if (outputs->empty() || !outputs->at(0).isTensor() || outputs->at(0).toTensor().numel() != n_floats)
      throw Failure(EI_ARTIFACT_ERROR, std::string(method) + " gives another shape than the program declares");
    return outputs->at(0).toTensor().const_data_ptr<float>();
  }

 private:
  void load(const char* path, const char* packed_cache_path) {
    executorch::runtime::BackendOptions<2> options;
    check(options.set_option("weight_cache_enabled", true));
    if (packed_cache_path) check(options.set_option("packed_cache_path", packed_cache_path));
    executorch::runtime::LoadBackendOptionsMap map;
    check(map.set_options(kXnnpack, options.view()));
    const Error error = module_.load(map, Program::Verification::InternalConsistency);
    if (error != Error::Ok) fail(EI_ARTIFACT_ERROR, std::string(path) + " is not a sound program", error);
  }

  void save_packed_weights() {
    executorch::runtime::BackendOptions<1> save;
    check(save.set_option("save_weight_cache_on_disk", true));
    (void)executorch::runtime::set_option(kXnnpack, save.view());  // without it the next load packs again
  }

  static void check(Error error) {
    if (error != Error::Ok) fail(EI_ENGINE_ERROR, "an option was refused", error);
  }

  int64_t constant(const char* path, const char* name) {
    auto value = module_.get(name);
    if (!value.ok() || !value->isInt())
      fail(EI_ARTIFACT_ERROR, std::string(path) + " does not say its " + name + "; export the model again",
           value.ok() ? Error::InvalidType : value.error());
    return value->toInt();
  }

  ei_info read_info(const char* path) {
    const int64_t version = constant(path, "program_version");
    if (version != kProgramVersion)
      throw Failure(EI_ARTIFACT_ERROR, std::string(path) + " is a program of version " + std::to_string(version) +
                                         "; this engine runs version " + std::to_string(kProgramVersion));
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
    info.n_threads = static_cast<int64_t>(executorch::extension::threadpool::get_threadpool()->get_thread_count());
    const bool sound = info.n_layers > 0 && info.n_layers <= 4096 && info.n_kv_heads > 0 && info.n_kv_heads <= 4096 &&
                       info.head_dim > 0 && info.head_dim <= 1024 && info.head_dim % kLanes == 0 && info.hidden > 0 &&
                       info.hidden <= 1 << 20 && info.n_vocab > 0 && info.n_vocab <= 1 << 24 && info.limit > 0 &&
                       info.exit_layer >= 0 && info.exit_layer < info.n_layers && info.max_rows > 0 &&
                       info.max_tokens >= info.max_rows && info.max_tokens <= 4096;
    if (!sound) throw Failure(EI_ARTIFACT_ERROR, std::string(path) + " declares a shape that cannot be");
    return info;
  }

  Module module_;
  const KvType kv_type_;
  ei_info info_{};
  std::vector<std::string> methods_;
  std::mutex mutex_;
};

namespace {

template <class Body>
ei_code guarded(ei_error* error, const Body& body) {
  clear_log();
  ei_code code = EI_ENGINE_ERROR;
  std::string message;
  try {
    body();
    return EI_OK;
  } catch (const Failure& failure) {
    code = failure.code;
    message = failure.message;
  } catch (const std::bad_alloc&) {
    message = "there is not enough memory";
  } catch (const std::exception& failure) {
    message = failure.what();
  }
  for (char& character : message)
    if (character == '\n') character = ' ';
  if (error) std::snprintf(error->message, sizeof error->message, "%s", message.c_str());
  return code;
}

}  // namespace
}  // namespace edgeinfer

struct ei_model {
  std::shared_ptr<edgeinfer::LoadedProgram> program;
};

struct ei_cache {
  std::shared_ptr<edgeinfer::LoadedProgram> program;
  edgeinfer::Rings rings;
  std::vector<float> states;  // between the early and the late layers
};

namespace edgeinfer {
namespace {

// One run of a method or two over a cache, with the arguments checked.
class Step {
 public:
  Step(ei_cache& cache, int64_t n, int64_t position)
      : cache_(cache),
        program_(*cache.program),
        info_(program_.info()),
        lock_(program_.mutex()),
        running_(cache.rings),
        n_(n),
        place_{position, cache.rings.policy.window, cache.rings.policy.sink, cache.rings.policy.block} {
    check_range("the number of tokens", n, 1, info_.max_tokens);
    check_range("the position", position, 0, cache.rings.policy.limit - n);
    const int64_t room = cache.rings.window().room(position);
    if (n > room)
      refuse(std::to_string(n) + " tokens at position " + std::to_string(position) +
             " cross a block of the window: " + std::to_string(room) + " are possible");
  }

  void forward(const int64_t* tokens, int64_t n_rows, float* logits) {
    check_range("the number of rows", n_rows, 0, std::min(n_, info_.max_rows));
    if (info_.exit_layer) {
      cache_.states.resize(static_cast<size_t>(n_ * info_.hidden));
      front(tokens, cache_.states.data());
      verify(cache_.states.data(), n_rows, logits);
      return;
    }
    const Rows rows(n_, n_rows);
    run("forward", {*tensor(checked(tokens), {1, n_}), *place(), *rows.tensor}, rows, logits);
  }

  void front(const int64_t* tokens, float* states) {
    need_exit();
    const int64_t n_floats = n_ * info_.hidden;
    const float* out = program_.run("front", {*tensor(checked(tokens), {1, n_}), *place()}, n_floats);
    std::memcpy(states, out, static_cast<size_t>(n_floats) * sizeof(float));
  }

  void exit_head(const float* state, float* logits) {
    const float* out = program_.run("exit_head", {*tensor(state, {1, 1, info_.hidden})}, info_.n_vocab);
    std::memcpy(logits, out, static_cast<size_t>(info_.n_vocab) * sizeof(float));
  }

  void verify(const float* states, int64_t n_rows, float* logits) {
    need_exit();
    check_range("the number of rows", n_rows, 0, std::min(n_, info_.max_rows));
    const Rows rows(n_, n_rows);
    run("verify", {*tensor(states, {1, n_, info_.hidden}), *place(), *rows.tensor}, rows, logits);
  }

 private:
  // The last `n_rows` of n. A method gives at least one row; it is dropped where none is wanted.
  struct Rows {
    Rows(int64_t n, int64_t n_rows) : wanted(n_rows) {
      for (int64_t row = n - std::max<int64_t>(1, n_rows); row < n; ++row) indices.push_back(row);
      tensor = Step::tensor(indices.data(), {static_cast<int64_t>(indices.size())});
    }
    int64_t wanted;
    std::vector<int64_t> indices;
    TensorPtr tensor;
  };

  void run(const char* method, const std::vector<EValue>& inputs, const Rows& rows, float* logits) {
    const float* out = program_.run(method, inputs, static_cast<int64_t>(rows.indices.size()) * info_.n_vocab);
    if (rows.wanted) std::memcpy(logits, out, static_cast<size_t>(rows.wanted * info_.n_vocab) * sizeof(float));
  }

  const int64_t* checked(const int64_t* tokens) const {
    for (int64_t i = 0; i < n_; ++i)
      if (tokens[i] < 0 || tokens[i] >= info_.n_vocab)
        refuse("token " + std::to_string(tokens[i]) + " is outside the vocabulary of " +
               std::to_string(info_.n_vocab));
    return tokens;
  }

  void need_exit() const {
    if (!info_.exit_layer) refuse("this program has no exit layer");
  }

  TensorPtr place() { return tensor(place_, {4}); }

  // Inputs are read only; the runtime takes them by a pointer that is not const.
  template <class T>
  static TensorPtr tensor(const T* data, const std::vector<int64_t>& sizes) {
    const std::vector<executorch::aten::SizesType> shape(sizes.begin(), sizes.end());
    return from_blob(const_cast<T*>(data), shape,
                     std::is_same_v<T, float> ? executorch::aten::ScalarType::Float
                                              : executorch::aten::ScalarType::Long);
  }

  ei_cache& cache_;
  LoadedProgram& program_;
  const ei_info& info_;
  std::lock_guard<std::mutex> lock_;
  RunningRings running_;
  int64_t n_;
  int64_t place_[4];
};

void check_policy(const ei_policy& policy, const ei_info& info) {
  check_range("the limit", policy.limit, 1, info.limit);
  check_range("the block", policy.block, 1, policy.limit);
  check_range("the sink", policy.sink, 0, policy.limit);
  check_range("the window", policy.window, policy.block, policy.limit - policy.sink);
  if (policy.window % policy.block) refuse("the window must be a multiple of the block");
}

}  // namespace
}  // namespace edgeinfer

using edgeinfer::guarded;
using edgeinfer::Step;

ei_code ei_open(const char* path, const ei_options* options, ei_model** model, ei_error* error) {
  edgeinfer::capture_log();
  return guarded(error, [&] {
    if (options->size != sizeof(ei_options)) edgeinfer::refuse("ei_options is of another version of this header");
    if (options->packed_cache_path && std::strlen(options->packed_cache_path) > edgeinfer::kMaxPathBytes)
      edgeinfer::refuse("the path of the packed weights is longer than 255 bytes");
    edgeinfer::check_range("the K/V type", options->kv_type, EI_KV_F32, EI_KV_Q8);
    if (options->n_threads > 0)
      executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(
          static_cast<uint32_t>(options->n_threads));
    *model = new ei_model{std::make_shared<edgeinfer::LoadedProgram>(path, *options)};
  });
}

void ei_describe(const ei_model* model, ei_info* info) { *info = model->program->info(); }

void ei_close(ei_model* model) { delete model; }

ei_code ei_cache_new(ei_model* model, const ei_policy* policy, ei_cache** cache, ei_error* error) {
  return guarded(error, [&] {
    const ei_info& info = model->program->info();
    edgeinfer::check_policy(*policy, info);
    *cache = new ei_cache{model->program, edgeinfer::Rings(*policy, info, model->program->kv_type()), {}};
  });
}

int64_t ei_cache_bytes(const ei_cache* cache) { return cache->rings.n_bytes(); }

void ei_cache_free(ei_cache* cache) { delete cache; }

ei_code ei_forward(ei_cache* cache, const int64_t* tokens, int64_t n, int64_t position, int64_t n_rows, float* logits,
                   ei_error* error) {
  return guarded(error, [&] { Step(*cache, n, position).forward(tokens, n_rows, logits); });
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
