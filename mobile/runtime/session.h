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

  // Answers `text`, and returns when the answer has ended. Both become messages of the conversation, unless the answer
  // is empty. Throws Failure for invalid input, and when the engine fails; what was written until then is kept.
  AnswerStats chat(const std::string& text, const AnswerOptions& options, const Reader& reader);

  // Continues `prompt` without a template. The messages do not change.
  AnswerStats generate(Tokens prompt, const AnswerOptions& options, const Reader& reader);

  // Ends the running answer. Waits for its end, except on the model's own thread.
  void cancel();

  size_t n_messages() const;
  // Removes all messages after the first `n`, an even number: a question stays with its answer.
  void rewind(size_t n);

  // Frees the cache, when the model is closed.
  void release() { decoder_.reset(); }

 private:
  // Marks the session as running while it exists.
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
  uint64_t n_answers_ = 0;  // started so far
};

}  // namespace edgeinfer
