#include "utf8.h"

#include <cstdint>

namespace edgeinfer {
namespace {

constexpr char kReplacement[] = "\xEF\xBF\xBD";  // U+FFFD

// What may follow a first byte (Unicode 15, table 3-7): the bounds of the second byte and the length.
struct Lead {
  size_t length;  // 0: no character begins so
  uint8_t low = 0x80;
  uint8_t high = 0xBF;
};

Lead lead_of(uint8_t byte) {
  if (byte < 0x80) return {1};
  if (byte >= 0xC2 && byte <= 0xDF) return {2};
  if (byte == 0xE0) return {3, 0xA0};
  if (byte == 0xED) return {3, 0x80, 0x9F};  // above are surrogates
  if (byte >= 0xE1 && byte <= 0xEF) return {3};
  if (byte == 0xF0) return {4, 0x90};
  if (byte >= 0xF1 && byte <= 0xF3) return {4};
  if (byte == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

// Bytes at `at` that a character of `lead` could begin with; the character is whole where they are all of its length.
size_t n_sound(std::string_view bytes, size_t at, const Lead& lead) {
  size_t n = 1;
  for (; n < lead.length && at + n < bytes.size(); ++n) {
    const uint8_t byte = static_cast<uint8_t>(bytes[at + n]);
    if (byte < (n == 1 ? lead.low : 0x80) || byte > (n == 1 ? lead.high : 0xBF)) break;
  }
  return n;
}

}  // namespace

std::string Utf8Stream::feed(std::string_view bytes) {
  const std::string all = std::move(held_) + std::string(bytes);
  held_.clear();
  std::string text;
  for (size_t at = 0; at < all.size();) {
    const Lead lead = lead_of(static_cast<uint8_t>(all[at]));
    const size_t n = n_sound(all, at, lead);
    if (n == lead.length) {
      text.append(all, at, n);
    } else if (lead.length && at + n == all.size()) {
      held_ = all.substr(at);
      break;
    } else {
      text += kReplacement;
    }
    at += n;
  }
  return text;
}

std::string Utf8Stream::finish(bool cut) {
  const bool incomplete = !held_.empty();
  held_.clear();
  return incomplete && !cut ? kReplacement : "";
}

}  // namespace edgeinfer
