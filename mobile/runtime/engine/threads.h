// The threads that ExecuTorch runs its kernels on.
#pragma once

#include <cstddef>
#include <cstdint>

// The wheel exports these symbols, but has no header for them (extension/threadpool/threadpool.h, 1.5.1).
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t n_threads);
  size_t get_thread_count() const;
};
ThreadPool* get_threadpool();
}  // namespace executorch::extension::threadpool

namespace edgeinfer::engine {

inline int64_t n_pool_threads() {
  return static_cast<int64_t>(executorch::extension::threadpool::get_threadpool()->get_thread_count());
}

inline void set_pool_threads(int32_t n_threads) {
  executorch::extension::threadpool::get_threadpool()->_unsafe_reset_threadpool(static_cast<uint32_t>(n_threads));
}

}  // namespace edgeinfer::engine
