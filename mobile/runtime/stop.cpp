#include "stop.h"

#include <algorithm>
#include <utility>

#include "error.h"

namespace edgeinfer {

size_t tail_that_may_become(std::string_view text, const std::vector<std::string>& words) {
  size_t longest = 0;
  for (const std::string& word : words) {
    for (size_t n = std::min(text.size(), word.size() - 1); n > longest; --n) {
      if (std::string_view(word).substr(0, n) == text.substr(text.size() - n)) longest = n;
    }
  }
  return longest;
}

StopStrings::StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {
  for (const std::string& stop : stops_)
    if (stop.empty())
      fail(kUsageError, "a stop string must not be empty", "without it an answer ends as the model ends it");
}

std::string StopStrings::feed(std::string_view more) {
  if (stopped_) return "";
  std::string text = std::move(held_) + std::string(more);
  held_.clear();
  size_t first = std::string::npos;
  for (const std::string& stop : stops_) first = std::min(first, text.find(stop));
  if (first != std::string::npos) {
    stopped_ = true;
    return text.substr(0, first);
  }
  const size_t n_passed = text.size() - tail_that_may_become(text, stops_);
  held_ = text.substr(n_passed);
  text.resize(n_passed);
  return text;
}

std::string StopStrings::finish() { return std::exchange(held_, ""); }

}  // namespace edgeinfer
