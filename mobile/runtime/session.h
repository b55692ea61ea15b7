// A conversation with an open model, and the answer that it may be writing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "answer.h"
#include "history.h"
#include "loop.h"
#include "model.h"

namespace edgeinfer {

class Session {
 public:
  // `system` is the system prompt; "": none. Throws Failure for text that is not UTF-8.
  Session(std::shared_ptr<Model> model, std::string system);
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // The answer to `text`. Both become messages of the conversation, unless nothing was said. Returns when the answer
  // has ended. Throws Failure for what cannot be used, and when the engine gives up; what was said until then is kept.
  AnswerStats chat(const std::string& text, const AnswerOptions& options, const Reader& reader);

  // What follows `prompt`, without a template. The messages stay as they are.
  AnswerStats generate(Tokens prompt, const AnswerOptions& options, const Reader& reader);

  // Ends the running answer, and waits for that unless the model's thread calls.
  void cancel();

  size_t n_messages() const;
  // Forgets all messages after the first `n`, of which the last is an answer.
  void rewind(size_t n);

  // Frees the cache, when the model is closed.
  void release() { decoder_.reset(); }

 private:
  // While one is there, an answer is running.
  class Running;
  using Begin = std::function<AnswerWriter()>;
  using Ended = std::function<void(const AnswerWriter&)>;

  AnswerStats run(const Begin& begin, const Ended& ended);
  AnswerWriter begin_chat(const std::vector<Message>& messages, AnswerOptions options, const Reader& reader);
  AnswerRequest request(Prompt prompt, const AnswerOptions& options) const;

  std::shared_ptr<Model> model_;
  std::unique_ptr<Decoder> decoder_;
  const std::string system_;
  History history_;
  std::vector<Message> turns_;
  mutable std::mutex mutex_;
  std::condition_variable idle_;
  std::atomic<bool> canceled_{false};
  bool running_ = false;
  uint64_t n_answers_ = 0;  // that have begun
};

}  // namespace edgeinfer
