// The characters that byte-level BPE writes for bytes, as in GPT-2: printable ones stand for themselves.
#pragma once

#include <cstdint>

namespace edgeinfer {

constexpr bool stands_for_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
}

// The code point for `byte`: the n-th byte that does not stand for itself is U+0100 + n.
constexpr uint32_t character_of_byte(uint32_t byte) {
  if (stands_for_itself(byte)) return byte;
  uint32_t n = 0;
  for (uint32_t other = 0; other < byte; ++other) n += !stands_for_itself(other);
  return 0x100 + n;
}

// The byte for a code point; -1 for a character outside the alphabet.
constexpr int byte_of_character(uint32_t code) {
  if (code < 0x100) return stands_for_itself(code) ? static_cast<int>(code) : -1;
  uint32_t n = code - 0x100;
  for (uint32_t byte = 0; byte < 0x100; ++byte) {
    if (!stands_for_itself(byte) && n-- == 0) return static_cast<int>(byte);
  }
  return -1;
}

}  // namespace edgeinfer
