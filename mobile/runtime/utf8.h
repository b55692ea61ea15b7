// Bytes of tokens to text. A token may hold part of a character, so text comes when a character is whole.
// edgeinfer/chat/utf8.py.
#pragma once

#include <string>
#include <string_view>

namespace edgeinfer {

// Feed bytes, get the text that is complete. Bytes that can never be UTF-8 become U+FFFD.
class Utf8Stream {
 public:
  std::string feed(std::string_view bytes);

  // What is left at the end: U+FFFD for a last character that never came whole, nothing where text was cut.
  std::string finish(bool cut);

 private:
  std::string held_;  // the beginning of a character
};

}  // namespace edgeinfer
