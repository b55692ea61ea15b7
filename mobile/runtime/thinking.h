// The reasoning of a model, separated from its answer while both stream. edgeinfer/chat/thinking.py.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/chat_pieces.h"

namespace edgeinfer {

struct Segment {
  std::string text;
  bool thinking;
};

// Turns text into segments, without the tags and without the white space after a trace.
//
// A trace begins only before the first words of the answer. After that, a tag is part of what the model says.
class ThinkingSplitter {
 public:
  // `inside` is the trace that the prompt begins.
  ThinkingSplitter(std::vector<TraceFormat> formats, std::optional<TraceFormat> inside);

  std::vector<Segment> feed(std::string_view text);
  std::vector<Segment> finish();
  // The current trace.
  const std::optional<TraceFormat>& inside() const { return inside_; }

 private:
  std::string until_closing(std::string text, std::string& before);
  std::string before_answer(std::string text);
  void add_trace(std::string_view text, std::vector<Segment>& segments);

  std::vector<TraceFormat> formats_;
  std::vector<std::string> not_shown_;  // marks before an answer
  std::vector<std::string> starts_;     // everything that may stand before an answer
  std::string held_;
  bool begun_ = false;   // the current trace has text
  bool marked_ = false;  // a mark came before the answer
  bool answering_ = false;
  std::optional<TraceFormat> inside_;
};

}  // namespace edgeinfer
