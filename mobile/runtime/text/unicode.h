// UTF-8 and the classes of characters that tokenizers and templates tell apart.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace edgeinfer {

// Bits of `classes_of`. Letters and numbers are \p{L} and \p{N} of regular expressions.
enum CharClass : uint32_t {
  kLetter = 1,
  kNumber = 2,
  kSpace = 4,   // \s
  kUpper = 8,   // \p{Lu}, \p{Lt}, \p{Lm}, \p{Lo} or \p{M}
  kLower = 16,  // \p{Ll}, \p{Lm}, \p{Lo} or \p{M}
  kDigit = 32   // what the `Digits` pre-tokenizer isolates: \p{N} of a later Unicode
};

uint32_t classes_of(uint32_t code);

struct CodePoint {
  uint32_t code;
  uint32_t n_bytes;
};

// The character at `at` < text.size(). A byte that begins no character is U+FFFD of one byte.
CodePoint code_point_at(std::string_view text, size_t at);
bool is_utf8(std::string_view text);
void append_utf8(std::string& text, uint32_t code);

// Without white space at both ends, as Python's `str.strip`.
std::string_view stripped(std::string_view text);

}  // namespace edgeinfer
