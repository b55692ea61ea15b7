#include "session.h"

#include <ctime>
#include <optional>
#include <utility>

#include "error.h"
#include "text/unicode.h"

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

namespace {

void check_text(const std::string& text, const char* what) {
  if (!is_utf8(text)) fail(kUsageError, std::string(what) + " holds bytes that are not UTF-8");
}

}  // namespace

Session::Session(std::shared_ptr<Model> model, std::string system)
    : model_(std::move(model)),
      system_(std::move(system)),
      history_({model_->tokenizer(), model_->manifest().chat.words}) {
  check_text(system_, "the system prompt");
  decoder_ = model_->add(*this);
}

Session::~Session() {
  cancel();
  model_->remove(*this);
}

AnswerStats Session::chat(const std::string& text, const AnswerOptions& options, const Reader& reader) {
  check_text(text, "the message");
  const Message question{Role::user, text};
  std::vector<Message> messages;
  if (!system_.empty()) messages.push_back({Role::system, system_});
  const auto begin = [&] {
    messages.insert(messages.end(), turns_.begin(), turns_.end());
    messages.push_back(question);
    return begin_chat(messages, options, reader);
  };
  return run(begin, [&](const AnswerWriter& writer) {
    history_.answered(writer.tokens(), writer.text());
    if (writer.shown().empty()) return;  // without an answer, the question would be asked again with the next one
    const std::lock_guard<std::mutex> lock(mutex_);
    turns_.push_back(question);
    turns_.push_back({Role::assistant, writer.shown()});
  });
}

AnswerStats Session::generate(Tokens prompt, const AnswerOptions& options, const Reader& reader) {
  const int64_t n_vocab = model_->info().n_vocab;
  for (const int32_t token : prompt)
    if (token < 0 || token >= n_vocab)
      fail(kUsageError,
           "token " + std::to_string(token) + " is not in the vocabulary: ids are 0 to " + std::to_string(n_vocab - 1));
  const auto begin = [&] {
    Prompt ready;
    ready.tokens = std::move(prompt);
    return AnswerWriter(*decoder_, request(std::move(ready), options), options, model_->text_of_answer({}, {}), reader);
  };
  return run(begin, [](const AnswerWriter&) {});
}

AnswerStats Session::run(const Begin& begin, const Ended& ended) {
  const Running running(*this);
  std::optional<AnswerWriter> writer;
  AnswerStats stats;
  model_->worker().run([&] {
    if (!writer) writer.emplace(begin());
    bool continues;
    try {
      continues = writer->step(canceled_ || model_->is_closing());
    } catch (...) {
      clean_up([&] { ended(*writer); });
      throw;
    }
    if (!continues) ended(*writer);
    stats = writer->stats();  // here: a model that is closed frees the decoder
    return continues;
  });
  return stats;
}

AnswerWriter Session::begin_chat(const std::vector<Message>& messages, AnswerOptions options, const Reader& reader) {
  const ChatPieces& chat = model_->manifest().chat;
  const Pieces& pieces = options.thinking ? chat.thinking : chat.no_thinking;
  Prompt prompt = history_.prompt(render(pieces, messages, std::time(nullptr)));
  if (system_.empty() && prompt.n_system > model_->policy().sink)
    prompt.n_system = 0;                   // what the template itself writes may leave the window
  options.sampling.seed += turns_.size();  // each answer has a seed of its own
  options.stops.insert(options.stops.end(), pieces.stops.begin(), pieces.stops.end());
  AnswerRequest asked = request(std::move(prompt), options);
  asked.stop_tokens.insert(pieces.stop_tokens.begin(), pieces.stop_tokens.end());
  return AnswerWriter(*decoder_, std::move(asked), options, model_->text_of_answer(pieces.traces, pieces.begun),
                      reader);
}

AnswerRequest Session::request(Prompt prompt, const AnswerOptions& options) const {
  const std::vector<int32_t>& stops = model_->manifest().stop_tokens;
  return {std::move(prompt), options.sampling, options.max_tokens, {stops.begin(), stops.end()}, 0};
}

size_t Session::n_messages() const {
  const std::lock_guard<std::mutex> lock(mutex_);
  return turns_.size();
}

void Session::rewind(size_t n) {
  const Running running(*this);
  if (n > turns_.size() || n % 2)
    fail(kUsageError,
         "a conversation of " + std::to_string(turns_.size()) + " messages cannot go back to " + std::to_string(n),
         "give an even number up to that: a question is kept with its answer");
  const std::lock_guard<std::mutex> lock(mutex_);
  turns_.erase(turns_.begin() + static_cast<ptrdiff_t>(n), turns_.end());
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
