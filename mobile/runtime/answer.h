// One answer: from the decoder's tokens to text, reasoning and pieces. edgeinfer/runner/answer.py.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "loop.h"
#include "protocols.h"
#include "stats.h"
#include "stop.h"
#include "thinking.h"
#include "utf8.h"

namespace edgeinfer {

// A piece of an answer for its reader: whole characters, and the tokens since the last piece.
struct Piece {
  std::string text;
  bool thinking = false;
  Tokens tokens;
};

// Takes a piece, and returns whether it wants more.
using Reader = std::function<bool(const Piece&)>;

struct AnswerOptions {
  Sampling sampling;
  int64_t max_tokens = 2048;
  bool thinking = true;
  std::optional<int64_t> think_budget;  // tokens of reasoning; nothing: no limit
  std::chrono::milliseconds batch{0};   // pieces come at most this often; 0: one per token
  std::vector<std::string> stops;
};

// How tokens become text, and which reasoning to expect.
struct AnswerText {
  std::function<std::string(int32_t)> bytes_of;  // a token
  // The tokens of a text that the runtime adds after the text `after`.
  std::function<Tokens(const std::string& text, const std::string& after)> encode_after;
  std::vector<TraceFormat> traces;
  std::optional<TraceFormat> inside;  // the trace that the prompt has begun
};

// Writes one answer, a step at a time.
class AnswerWriter {
 public:
  AnswerWriter(Decoder& decoder, AnswerRequest request, const AnswerOptions& options, AnswerText text, Reader reader);

  // Runs one step of the decoder, unless `canceled`. Returns whether the answer continues.
  bool step(bool canceled);

  // All tokens so far, including the reasoning, without the stop token.
  const Tokens& tokens() const { return tokens_; }
  // Their text, including tags and reasoning.
  const std::string& text() const { return text_; }
  // The text that was delivered, without the reasoning.
  const std::string& shown() const { return shown_; }
  AnswerStats stats() const;

 private:
  void begin();
  void take(int32_t token);
  void read(const std::string& text);
  void show(std::vector<Segment> segments);
  void add(std::string text, bool thinking);
  void deliver();
  bool over_budget() const;
  bool end_trace();
  void end();

  Decoder& decoder_;
  AnswerRequest request_;
  AnswerOptions options_;
  AnswerText words_;
  Reader reader_;
  Utf8Stream utf8_;
  ThinkingSplitter splitter_;
  StopStrings stops_;
  Piece pending_;
  std::chrono::steady_clock::time_point delivered_;
  bool begun_ = false;
  bool walked_away_ = false;  // the reader wants no more
  bool budget_used_ = false;
  int64_t n_thought_ = 0;
  int64_t n_free_ = 0;  // tokens of the opening, which do not count as the answer's own
  Tokens tokens_;
  std::string text_;
  std::string shown_;
  Finish finish_ = Finish::running;
  std::optional<AnswerStats> earlier_;  // of the part before the budget ended the trace
};

}  // namespace edgeinfer
