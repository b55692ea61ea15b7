#include "thinking.h"

#include <algorithm>
#include <utility>

#include "stop.h"

namespace edgeinfer {
namespace {

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

// Without white space at the front.
std::string_view words_of(std::string_view text) {
  return text.substr(std::min(text.size(), text.find_first_not_of(" \t\n\v\f\r")));
}

}  // namespace

ThinkingSplitter::ThinkingSplitter(std::vector<TraceFormat> formats, std::optional<TraceFormat> inside)
    : formats_(std::move(formats)), marked_(inside.has_value()), inside_(std::move(inside)) {
  for (const TraceFormat& known : formats_) {
    not_shown_.insert(not_shown_.end(), known.before_answer.begin(), known.before_answer.end());
    not_shown_.insert(not_shown_.end(), known.closings.begin(), known.closings.end());
  }
  for (const TraceFormat& known : formats_) starts_.push_back(known.opening);
  starts_.insert(starts_.end(), not_shown_.begin(), not_shown_.end());
}

std::vector<Segment> ThinkingSplitter::feed(std::string_view more) {
  std::vector<Segment> segments;
  std::string text = std::exchange(held_, "") + std::string(more);
  while (!text.empty()) {
    if (answering_) {
      segments.push_back({std::move(text), false});
      break;
    }
    if (inside_) {
      std::string before;
      text = until_closing(std::move(text), before);
      add_trace(before, segments);
    } else {
      text = before_answer(std::move(text));
    }
  }
  return segments;
}

std::vector<Segment> ThinkingSplitter::finish() {
  std::vector<Segment> segments;
  const std::string held = std::exchange(held_, "");
  if (inside_) {
    add_trace(held, segments);
  } else if (const std::string_view text = marked_ ? words_of(held) : held; !text.empty()) {
    segments.push_back({std::string(text), false});
  }
  return segments;
}

// The part of the trace that is certain goes to `before`; the text after it is left.
std::string ThinkingSplitter::until_closing(std::string text, std::string& before) {
  size_t first = std::string::npos, length = 0;
  for (const std::string& mark : inside_->closings) {
    const size_t at = text.find(mark);
    if (at < first || (at == first && at != std::string::npos && mark.size() > length)) {
      first = at;
      length = mark.size();
    }
  }
  if (first != std::string::npos) {
    inside_.reset();
    before = text.substr(0, first);
    return text.substr(first + length);
  }
  const size_t n_certain = text.size() - tail_that_may_become(text, inside_->closings);
  before = text.substr(0, n_certain);
  held_ = text.substr(n_certain);
  return "";
}

// The text left to read, after a mark was taken from it or the answer was found to begin.
std::string ThinkingSplitter::before_answer(std::string text) {
  const std::string_view words = words_of(text);
  for (const TraceFormat& known : formats_) {
    if (starts_with(words, known.opening)) {
      std::string rest(words.substr(known.opening.size()));
      inside_ = known;
      begun_ = false;
      marked_ = true;
      return rest;
    }
  }
  for (const std::string& mark : not_shown_) {
    if (starts_with(words, mark)) {
      marked_ = true;
      return std::string(words.substr(mark.size()));
    }
  }
  const auto may_become = [&](const std::string& start) { return starts_with(start, words); };
  if (words.empty() || std::any_of(starts_.begin(), starts_.end(), may_become)) {
    held_ = std::move(text);
    return "";
  }
  answering_ = true;
  return marked_ ? std::string(words) : text;
}

void ThinkingSplitter::add_trace(std::string_view text, std::vector<Segment>& segments) {
  if (!begun_) text = words_of(text);
  if (text.empty()) return;
  begun_ = true;
  segments.push_back({std::string(text), true});
}

}  // namespace edgeinfer
