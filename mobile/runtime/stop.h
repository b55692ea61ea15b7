// Stop strings: text is held back while it could still become one. edgeinfer/chat/stop.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace edgeinfer {

// Bytes of the longest end of `text` that is a proper beginning of one of `words`.
size_t tail_that_may_become(std::string_view text, const std::vector<std::string>& words);

// Passes text on up to the first stop string, which is not passed on.
class StopStrings {
 public:
  // Throws Failure for an empty string.
  explicit StopStrings(std::vector<std::string> stops);

  std::string feed(std::string_view text);
  std::string finish();
  bool stopped() const { return stopped_; }

 private:
  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace edgeinfer
