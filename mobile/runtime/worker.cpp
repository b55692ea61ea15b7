#include "worker.h"

namespace edgeinfer {

void Worker::run(const std::function<bool()>& step) {
  if (is_this_thread()) fail(kUsageError, "a callback may call edgeinfer_cancel, and no other function");
  Job job{step, {}};
  std::unique_lock<std::mutex> lock(mutex_);
  if (stopped_) fail(kUsageError, "the model is closed");
  jobs_.push_back(&job);
  wake_.notify_one();
  ended_.wait(lock, [&] { return job.ended; });
  if (job.error) throw Failure(*job.error);
}

void Worker::run_once(const std::function<void()>& job) {
  run([&] {
    job();
    return false;
  });
}

void Worker::stop() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    wake_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Worker::loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [this] { return stopped_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    Job& job = *jobs_.front();
    jobs_.pop_front();
    lock.unlock();
    bool continues = false;
    std::optional<Error> error;
    try {
      continues = job.step();
    } catch (...) {
      error = current_error();
    }
    lock.lock();
    if (continues) {
      jobs_.push_back(&job);
      continue;
    }
    job.error = std::move(error);
    job.ended = true;
    ended_.notify_all();
  }
}

}  // namespace edgeinfer
