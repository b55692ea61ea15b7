#include "composition.h"

#include <algorithm>
#include <iterator>
#include <unordered_map>
#include <vector>

#include "unicode.h"

namespace edgeinfer {

namespace {

struct Composition {
  uint32_t whole;
  uint32_t first, second;  // 0: it stands for `first` alone
  bool joins;              // NFC puts the two together
};

constexpr Composition kCompositions[] = {
#include "compositions.inc"
};

// Ranges of equal combining classes, as those of unicode.cpp.
constexpr uint32_t kClassRanges[] = {
#include "combining_classes.inc"
};

constexpr uint32_t kFirstMark = 0x300;  // what is below composes with nothing before it
constexpr uint32_t kHangul = 0xAC00, kLead = 0x1100, kVowel = 0x1161, kTail = 0x11A7;
constexpr uint32_t kLeads = 19, kVowels = 21, kTails = 28, kSyllables = kLeads * kVowels * kTails;

uint32_t class_of(uint32_t code) {
  return *(std::upper_bound(std::begin(kClassRanges), std::end(kClassRanges), code << 8 | 0xFF) - 1) & 0xFF;
}

void take_apart(uint32_t code, std::vector<uint32_t>& parts) {
  if (code >= kHangul && code < kHangul + kSyllables) {
    const uint32_t index = code - kHangul;
    parts.push_back(kLead + index / (kVowels * kTails));
    parts.push_back(kVowel + index / kTails % kVowels);
    if (index % kTails) parts.push_back(kTail + index % kTails);
    return;
  }
  const auto known = std::lower_bound(std::begin(kCompositions), std::end(kCompositions), code,
                                      [](const Composition& one, uint32_t other) { return one.whole < other; });
  if (known == std::end(kCompositions) || known->whole != code) {
    parts.push_back(code);
    return;
  }
  take_apart(known->first, parts);
  if (known->second) take_apart(known->second, parts);
}

// What `first` and `second` are together; 0 for nothing.
uint32_t together(uint32_t first, uint32_t second) {
  static const auto* const kPairs = [] {
    auto* pairs = new std::unordered_map<uint64_t, uint32_t>();
    for (const Composition& known : kCompositions) {
      if (known.joins) pairs->emplace(uint64_t{known.first} << 32 | known.second, known.whole);
    }
    return pairs;
  }();
  if (first >= kLead && first < kLead + kLeads && second >= kVowel && second < kVowel + kVowels) {
    return kHangul + ((first - kLead) * kVowels + second - kVowel) * kTails;
  }
  const bool is_open = first >= kHangul && first < kHangul + kSyllables && (first - kHangul) % kTails == 0;
  if (is_open && second > kTail && second < kTail + kTails) return first + second - kTail;
  const auto found = kPairs->find(uint64_t{first} << 32 | second);
  return found == kPairs->end() ? 0 : found->second;
}

// Marks in the order of their classes; those of one class stay in theirs.
void order_marks(std::vector<uint32_t>& codes) {
  for (auto begin = codes.begin(); begin != codes.end();) {
    if (class_of(*begin) == 0) {
      ++begin;
      continue;
    }
    const auto end = std::find_if(begin, codes.end(), [](uint32_t code) { return class_of(code) == 0; });
    std::stable_sort(begin, end, [](uint32_t a, uint32_t b) { return class_of(a) < class_of(b); });
    begin = end;
  }
}

std::vector<uint32_t> put_together(const std::vector<uint32_t>& codes) {
  std::vector<uint32_t> result;
  size_t starter = SIZE_MAX;  // in `result`
  uint32_t last_class = 0;    // of what was kept after it
  for (uint32_t code : codes) {
    const uint32_t own_class = class_of(code);
    const bool is_next = starter != SIZE_MAX && starter + 1 == result.size();
    if (starter != SIZE_MAX && (is_next || last_class < own_class)) {
      if (const uint32_t whole = together(result[starter], code)) {
        result[starter] = whole;
        continue;
      }
    }
    if (own_class == 0) starter = result.size();
    last_class = own_class;
    result.push_back(code);
  }
  return result;
}

}  // namespace

std::string composed(std::string_view text) {
  std::vector<uint32_t> codes;
  bool has_marks = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    codes.push_back(point.code);
    has_marks = has_marks || point.code >= kFirstMark;
    at += point.n_bytes;
  }
  if (!has_marks) return std::string(text);
  std::vector<uint32_t> parts;
  for (uint32_t code : codes) take_apart(code, parts);
  order_marks(parts);
  std::string result;
  for (uint32_t code : put_together(parts)) append_utf8(result, code);
  return result;
}

}  // namespace edgeinfer
