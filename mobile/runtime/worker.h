// The thread of a model. Jobs run one step at a time, in turn.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "error.h"

namespace edgeinfer {

class Worker {
 public:
  Worker() : thread_([this] { loop(); }) {}
  ~Worker() { stop(); }
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;

  // Calls `step` until it returns false, in turn with the steps of other jobs. Throws Failure if `step` throws, or if
  // the worker has stopped.
  void run(const std::function<bool()>& step);
  void run_once(const std::function<void()>& job);

  // Refuses new jobs, waits for the running ones, and ends the thread.
  void stop();

  bool is_this_thread() const { return id_ == std::this_thread::get_id(); }

 private:
  struct Job {
    const std::function<bool()>& step;
    std::optional<Error> error;
    bool ended = false;
  };

  void loop();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable ended_;
  std::deque<Job*> jobs_;
  bool stopped_ = false;
  std::thread thread_;
  const std::thread::id id_ = thread_.get_id();
};

}  // namespace edgeinfer
