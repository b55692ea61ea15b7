#include "session.h"

#include <optional>
#include <utility>

#include "error.h"

namespace edgeinfer {

class Session::Running {
 public:
  explicit Running(Session& session) : session_(session) {
    const std::lock_guard<std::mutex> lock(session.mutex_);
    if (session.running_) fail(kUsageError, "another answer is being written", "cancel it, or wait for its end");
    session.running_ = true;
    session.canceled_ = false;
    ++session.n_answers_;
  }
  ~Running() {
    const std::lock_guard<std::mutex> lock(session_.mutex_);
    session_.running_ = false;
    session_.idle_.notify_all();
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;

 private:
  Session& session_;
};

Session::Session(std::shared_ptr<Model> model) : model_(std::move(model)) { decoder_ = model_->add(*this); }

Session::~Session() {
  cancel();
  model_->remove(*this);
}

AnswerStats Session::generate(Tokens prompt, const AnswerOptions& options, const Reader& reader) {
  const int64_t n_vocab = model_->info().n_vocab;
  for (const int32_t token : prompt)
    if (token < 0 || token >= n_vocab)
      fail(kUsageError,
           "token " + std::to_string(token) + " is not in the vocabulary: ids are 0 to " + std::to_string(n_vocab - 1));
  return run([&] {
    AnswerRequest request;
    request.prompt.tokens = std::move(prompt);
    request.sampling = options.sampling;
    AnswerText text{[](int32_t) { return std::string(); }, [](const auto&, const auto&) { return Tokens(); }, {}, {}};
    return AnswerWriter(*decoder_, std::move(request), options, std::move(text), reader);
  });
}

AnswerStats Session::run(const std::function<AnswerWriter()>& begin) {
  const Running running(*this);
  std::optional<AnswerWriter> writer;
  AnswerStats stats;
  model_->worker().run([&] {
    if (!writer) writer.emplace(begin());
    const bool continues = writer->step(canceled_ || model_->is_closing());
    stats = writer->stats();  // here: a model that is closed frees the decoder
    return continues;
  });
  return stats;
}

void Session::cancel() {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!running_) return;
  canceled_ = true;
  if (model_->worker().is_this_thread()) return;
  const uint64_t n = n_answers_;
  idle_.wait(lock, [&] { return !running_ || n_answers_ != n; });
}

}  // namespace edgeinfer
