// A loaded program, and what every call on it shares: errors, tensors, the lock.
#pragma once

#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor.h>

#include <cstdio>
#include <exception>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <type_traits>
#include <vector>

#include "engine.h"
#include "log.h"
#include "rings.h"

namespace edgeinfer::engine {

using executorch::extension::TensorPtr;

struct Failure : std::exception {
  Failure(ei_code code, std::string message) : code(code), message(std::move(message)) {}
  const char* what() const noexcept override { return message.c_str(); }
  ei_code code;
  std::string message;
};

[[noreturn]] void refuse(const std::string& what);
void check_range(const char* what, int64_t value, int64_t least, int64_t most);

// One loaded file. Methods run one at a time.
class LoadedProgram {
 public:
  LoadedProgram(const char* path, const ei_options& options);

  const ei_info& info() const { return info_; }
  // `front` runs the layers before this one, and `verify` the others; 0: `forward` runs all.
  int64_t split_layer() const { return info_.exit_layer ? info_.exit_layer : info_.draft_exit_layer; }
  std::mutex& mutex() { return mutex_; }
  KvType kv_type() const { return kv_type_; }

  // The outputs of `method`, of `sizes` floats, valid until the next run.
  std::vector<const float*> run(const char* method, const std::vector<TensorPtr>& inputs,
                                const std::vector<int64_t>& sizes);

 private:
  void load(const char* path, const char* packed_cache_path);
  void save_packed_weights();
  int64_t constant(const char* path, const char* name);
  ei_info read_info(const char* path);
  std::vector<std::string> methods() const;

  executorch::extension::Module module_;
  const KvType kv_type_;
  ei_info info_{};
  std::mutex mutex_;
};

// Inputs are read only; the runtime takes them by a pointer that is not const.
template <class T>
TensorPtr tensor(const T* data, const std::vector<int64_t>& sizes) {
  const std::vector<executorch::aten::SizesType> shape(sizes.begin(), sizes.end());
  return executorch::extension::from_blob(const_cast<T*>(data), shape,
                                          std::is_same_v<T, float> ? executorch::aten::ScalarType::Float
                                                                   : executorch::aten::ScalarType::Long);
}

// The right to run methods over some rings, for `n` tokens from `position` on. Throws Failure where they do not fit.
class Turn {
 public:
  Turn(LoadedProgram& program, Rings& rings, int64_t n, int64_t position);

  TensorPtr place() const { return tensor(place_, {4}); }

 private:
  std::lock_guard<std::mutex> lock_;
  RunningRings running_;
  int64_t place_[4];
};

// `tokens` [n]. Throws Failure for one outside the vocabulary.
const int64_t* checked(const int64_t* tokens, int64_t n, const ei_info& info);
void check_policy(const ei_policy& policy, const ei_info& info);

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

}  // namespace edgeinfer::engine

struct ei_model {
  std::shared_ptr<edgeinfer::engine::LoadedProgram> program;
};
