// Stop strings: text is held back while it could still become one. edgeinfer/chat/stop.py.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace edgeinfer {

// Length in bytes of the longest suffix of `text` that is a proper prefix of one of `words`.
size_t tail_that_may_become(std::string_view text, const std::vector<std::string>& words);

// Passes text on, up to and without the first stop string.
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
