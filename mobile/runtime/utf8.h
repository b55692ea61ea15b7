// Turns the bytes of tokens into text. A token may end inside a character; its text then comes with the next one.
// edgeinfer/chat/utf8.py.
#pragma once

#include <string>
#include <string_view>

namespace edgeinfer {

// Turns bytes into the characters that are complete. Bytes that cannot be UTF-8 become U+FFFD.
class Utf8Stream {
 public:
  std::string feed(std::string_view bytes);

  // The rest at the end: U+FFFD for an incomplete character, or nothing if the answer was cut there.
  std::string finish(bool cut);

 private:
  std::string held_;  // the beginning of a character
};

}  // namespace edgeinfer
