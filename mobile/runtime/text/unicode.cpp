#include "unicode.h"

#include <algorithm>
#include <iterator>

namespace edgeinfer {

namespace {

// Ranges of equal classes, in order: the first code point << 8, and the classes of all up to the next range.
constexpr uint32_t kRanges[] = {
#include "unicode_table.inc"
};

bool is_python_space(uint32_t code) { return (classes_of(code) & kSpace) || (code >= 0x1C && code <= 0x1F); }

}  // namespace

uint32_t classes_of(uint32_t code) {
  const uint32_t* after = std::upper_bound(std::begin(kRanges), std::end(kRanges), code << 8 | 0xFF);
  return *(after - 1) & 0xFF;
}

CodePoint code_point_at(std::string_view text, size_t at) {
  constexpr CodePoint kNone = {0xFFFD, 1};
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<unsigned char>(text[i])); };
  const uint32_t first = byte(at);
  if (first < 0x80) return {first, 1};
  const uint32_t n = first >= 0xF0 ? 4 : first >= 0xE0 ? 3 : 2;
  if (first < 0xC2 || first > 0xF4 || text.size() - at < n) return kNone;
  uint32_t code = first & (0x7F >> n);
  for (uint32_t i = 1; i < n; ++i) {
    if ((byte(at + i) & 0xC0) != 0x80) return kNone;
    code = code << 6 | (byte(at + i) & 0x3F);
  }
  const bool is_too_long = n == 3 ? code < 0x800 : n == 4 && code < 0x10000;
  const bool is_no_character = (code >= 0xD800 && code < 0xE000) || code > 0x10FFFF;
  return is_too_long || is_no_character ? kNone : CodePoint{code, n};
}

bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    if (point.n_bytes == 1 && static_cast<unsigned char>(text[at]) >= 0x80) return false;
    at += point.n_bytes;
  }
  return true;
}

void append_utf8(std::string& text, uint32_t code) {
  const auto add = [&](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    add(code);
  } else if (code < 0x800) {
    add(0xC0 | code >> 6);
    add(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    add(0xE0 | code >> 12);
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  } else {
    add(0xF0 | code >> 18);
    add(0x80 | (code >> 12 & 0x3F));
    add(0x80 | (code >> 6 & 0x3F));
    add(0x80 | (code & 0x3F));
  }
}

std::string_view stripped(std::string_view text) {
  size_t begin = 0, end = 0;
  bool has_begun = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    const size_t next = at + point.n_bytes;
    if (!is_python_space(point.code)) {
      if (!has_begun) begin = at;
      has_begun = true;
      end = next;
    }
    at = next;
  }
  return text.substr(begin, end - begin);
}

}  // namespace edgeinfer
