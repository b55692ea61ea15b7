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

// Feed text, get segments; the tags are in none of them, nor is the space that follows a trace.
//
// A trace begins only before the first words of the answer. After that, a tag is part of what the model says.
class ThinkingSplitter {
 public:
  // `inside` is the trace that the prompt has begun.
  ThinkingSplitter(std::vector<TraceFormat> formats, std::optional<TraceFormat> inside);

  std::vector<Segment> feed(std::string_view text);
  std::vector<Segment> finish();
  // The trace that runs now.
  const std::optional<TraceFormat>& inside() const { return inside_; }

 private:
  std::string until_closing(std::string text, std::string& before);
  std::string before_answer(std::string text);
  void add_trace(std::string_view text, std::vector<Segment>& segments);

  std::vector<TraceFormat> formats_;
  std::vector<std::string> not_shown_;  // marks before an answer
  std::vector<std::string> starts_;     // all that may stand there
  std::string held_;
  bool begun_ = false;   // the trace that runs has words
  bool marked_ = false;  // a mark came before the answer
  bool answering_ = false;
  std::optional<TraceFormat> inside_;
};

}  // namespace edgeinfer
