#include "answer.h"

#include <algorithm>
#include <utility>

namespace edgeinfer {
namespace {

// The statistics of an answer in two parts: counts add up, and the prompt is that of the first part.
AnswerStats joined(const AnswerStats& first, AnswerStats second) {
  second.prompt = first.prompt;
  second.reused = first.reused;
  second.prefilled += first.prefilled;
  second.reprefilled += first.reprefilled;
  second.evicted += first.evicted;
  second.reanchored += first.reanchored;
  second.emitted += first.emitted;
  second.prefill_s += first.prefill_s;
  second.first_token_s = first.first_token_s;
  second.decode_s += first.decode_s;
  for (const auto& [name, arm] : first.arms) {
    ArmStats& into = second.arms[name];
    into.rounds += arm.rounds;
    into.drafted += arm.drafted;
    into.accepted += arm.accepted;
    into.emitted += arm.emitted;
    into.seconds += arm.seconds;
  }
  return second;
}

}  // namespace

AnswerWriter::AnswerWriter(Decoder& decoder, AnswerRequest request, const AnswerOptions& options, AnswerText text,
                           Reader reader)
    : decoder_(decoder),
      request_(std::move(request)),
      options_(options),
      words_(std::move(text)),
      reader_(std::move(reader)),
      splitter_(words_.traces, words_.inside),
      stops_(options.stops),
      delivered_(std::chrono::steady_clock::now()) {
  if (!options_.thinking) options_.think_budget = 0;
}

bool AnswerWriter::step(bool canceled) {
  if (!begun_) {
    begun_ = true;
    if (over_budget()) return end_trace();  // the prompt begins a trace, and the budget is 0
    begin();
  }
  if (canceled) {
    decoder_.stop();
    finish_ = Finish::canceled;
    end();
    return false;
  }
  const Tokens tokens = decoder_.step();
  for (size_t at = 0; at < tokens.size(); ++at) {
    if (request_.stop_tokens.count(tokens[at])) continue;  // the decoder ends by itself, and says why
    take(tokens[at]);
    if (!over_budget() && !stops_.stopped() && !walked_away_) continue;
    decoder_.stop(static_cast<int64_t>(tokens.size() - at - 1));
    break;
  }
  if (walked_away_) {
    finish_ = Finish::canceled;
    return false;
  }
  if (over_budget() && !stops_.stopped()) return end_trace();
  if (decoder_.running()) return true;
  finish_ = stops_.stopped() ? Finish::stop : decoder_.stats().finish;
  end();
  return false;
}

AnswerStats AnswerWriter::stats() const {
  AnswerStats stats = earlier_ ? joined(*earlier_, decoder_.stats()) : decoder_.stats();
  stats.finish = finish_;
  return stats;
}

void AnswerWriter::begin() {
  AnswerRequest request = request_;
  const int64_t n_before = static_cast<int64_t>(tokens_.size());
  request.prompt.tokens.insert(request.prompt.tokens.end(), tokens_.begin(), tokens_.end());
  request.max_tokens = options_.max_tokens - n_before + n_free_;
  request.first_index = n_before;
  decoder_.start(std::move(request));
}

void AnswerWriter::take(int32_t token) {
  tokens_.push_back(token);
  pending_.tokens.push_back(token);
  n_thought_ += splitter_.inside().has_value();
  read(utf8_.feed(words_.bytes_of(token)));
  if (std::chrono::steady_clock::now() - delivered_ >= options_.batch) deliver();
}

void AnswerWriter::read(const std::string& text) {
  text_ += text;
  show(splitter_.feed(text));
}

// Holds text back while it may be the beginning of a stop string.
void AnswerWriter::show(std::vector<Segment> segments) {
  for (Segment& segment : segments)
    add(segment.thinking ? std::move(segment.text) : stops_.feed(segment.text), segment.thinking);
}

void AnswerWriter::add(std::string text, bool thinking) {
  if (text.empty()) return;
  if (pending_.thinking != thinking && !pending_.text.empty()) deliver();
  pending_.thinking = thinking;
  pending_.text += text;
  if (!thinking) shown_ += text;
}

void AnswerWriter::deliver() {
  if (walked_away_ || (pending_.text.empty() && pending_.tokens.empty())) return;
  const Piece piece = std::exchange(pending_, Piece{});
  delivered_ = std::chrono::steady_clock::now();
  if (reader_) walked_away_ = !reader_(piece);
}

bool AnswerWriter::over_budget() const {
  return splitter_.inside() && options_.think_budget && n_thought_ >= *options_.think_budget && !budget_used_;
}

// Ends the reasoning that has used its budget. Returns whether the answer continues.
bool AnswerWriter::end_trace() {
  budget_used_ = true;
  const bool began_inside = tokens_.empty();
  const TraceFormat trace = *splitter_.inside();
  const std::string ending = trace.ending();
  if (!began_inside) earlier_ = decoder_.stats();
  for (const int32_t token : words_.encode_after(ending, text_.empty() ? trace.opening : text_)) {
    tokens_.push_back(token);
    pending_.tokens.push_back(token);
    text_ += utf8_.feed(words_.bytes_of(token));
  }
  show(splitter_.feed(ending));
  if (began_inside) n_free_ = static_cast<int64_t>(tokens_.size());
  if (static_cast<int64_t>(tokens_.size()) - n_free_ < options_.max_tokens) {
    begin();
    return true;
  }
  earlier_.reset();
  finish_ = Finish::length;
  end();
  return false;
}

// Delivers the text that was held back.
void AnswerWriter::end() {
  read(utf8_.finish(finish_ != Finish::stop));
  show(splitter_.finish());
  add(stops_.finish(), false);
  deliver();
}

}  // namespace edgeinfer
