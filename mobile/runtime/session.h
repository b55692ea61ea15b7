// A conversation with an open model, and the answer that it may be writing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "answer.h"
#include "loop.h"
#include "model.h"

namespace edgeinfer {

class Session {
 public:
  explicit Session(std::shared_ptr<Model> model);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // What follows `prompt`, without a template. Returns when the answer has ended. Throws Failure for what cannot be
  // used, and when the engine gives up; what was said until then stays.
  AnswerStats generate(Tokens prompt, const AnswerOptions& options, const Reader& reader);

  // Ends the running answer, and waits for that unless the model's thread calls.
  void cancel();

  // Frees the cache, when the model is closed.
  void release() { decoder_.reset(); }

 private:
  // While one is there, an answer is running.
  class Running;

  AnswerStats run(const std::function<AnswerWriter()>& begin);

  std::shared_ptr<Model> model_;
  std::unique_ptr<Decoder> decoder_;
  std::mutex mutex_;
  std::condition_variable idle_;
  std::atomic<bool> canceled_{false};
  bool running_ = false;
  uint64_t n_answers_ = 0;  // that have begun
};

}  // namespace edgeinfer
