#include "splitter.h"

#include <algorithm>
#include <vector>

#include "unicode.h"

namespace edgeinfer {

namespace {

#define SPACES R"(\s*[\r\n]+|\s+(?!\S)|\s+)"
#define CONTRACTION "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define GPT4(digits) CONTRACTION R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)" digits R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|)" SPACES
#define UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define GPT4O(ending, digits)                                                                                       \
  R"([^\r\n\p{L}\p{N}]?)" UPPER "*" LOWER "+" ending R"(|[^\r\n\p{L}\p{N}]?)" UPPER "+" LOWER "*" ending "|" digits \
  R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*|)" SPACES

struct Known {
  std::string_view pattern;
  SplitRule rule;
};

using Kind = SplitRule::Kind;

constexpr Known kKnown[] = {
    {R"(\p{N})", {Kind::digits}},
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", {Kind::gpt2}},
    {GPT4(R"(\p{N}{1,3})"), {Kind::gpt4, 3}},
    {GPT4(R"(\p{N})"), {Kind::gpt4, 1}},
    {GPT4O(CONTRACTION "?", R"(\p{N}{1,3})"), {Kind::gpt4o, 3}},
    {GPT4O("", R"(\p{N})"), {Kind::gpt4o, 1, false}},
};

// A text as characters, and how far each part of a pattern reaches from one of them. Every function returns the
// position after its match; the position where it began when it does not match.
class Scanner {
 public:
  explicit Scanner(std::string_view text) {
    for (size_t at = 0; at < text.size();) {
      const CodePoint point = code_point_at(text, at);
      chars_.push_back({point.code, classes_of(point.code), at});
      at += point.n_bytes;
    }
    chars_.push_back({0, 0, text.size()});
  }

  size_t size() const { return chars_.size() - 1; }
  size_t byte_of(size_t i) const { return chars_[i].at; }

  size_t word(size_t i, const SplitRule& rule) const {
    switch (rule.kind) {
      case Kind::digits:
        return alone(i, kNumber);
      case Kind::unicode_digits:
        return alone(i, kDigit);
      case Kind::gpt2:
        return gpt2(i);
      default:
        return gpt4(i, rule);
    }
  }

 private:
  struct Char {
    uint32_t code;
    uint32_t classes;
    size_t at;
  };

  bool is(size_t i, uint32_t classes) const { return (chars_[i].classes & classes) != 0; }
  bool is_code(size_t i, uint32_t code) const { return i < size() && chars_[i].code == code; }
  bool is_newline(size_t i) const { return is_code(i, '\n') || is_code(i, '\r'); }
  // Neither space nor letter nor number.
  bool is_symbol(size_t i) const { return i < size() && !is(i, kSpace | kLetter | kNumber); }

  size_t run(size_t i, uint32_t classes, size_t limit = SIZE_MAX) const {
    size_t end = i;
    while (end < size() && end - i < limit && is(end, classes)) ++end;
    return end;
  }

  size_t symbols(size_t i) const {
    while (is_symbol(i)) ++i;
    return i;
  }

  size_t alone(size_t i, uint32_t classes) const {
    if (is(i, classes)) return i + 1;
    while (i < size() && !is(i, classes)) ++i;
    return i;
  }

  // 's 't 're 've 'm 'll 'd
  size_t contraction(size_t i, bool any_case) const {
    if (!is_code(i, '\'') || i + 1 >= size()) return i;
    const uint32_t first = letter(i + 1, any_case);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return i + 2;
    if (i + 2 >= size()) return i;
    const uint32_t second = letter(i + 2, any_case);
    const bool is_long = (second == 'e' && (first == 'r' || first == 'v')) || (second == 'l' && first == 'l');
    return is_long ? i + 3 : i;
  }

  uint32_t letter(size_t i, bool any_case) const {
    const uint32_t code = chars_[i].code;
    if (!any_case) return code;
    return code == 0x17F ? 's' : code >= 'A' && code <= 'Z' ? code + 32 : code;  // U+017F is a long s
  }

  // \s+(?!\S)|\s+
  size_t spaces(size_t i) const {
    const size_t end = run(i, kSpace);
    return end < size() && end - i > 1 ? end - 1 : end;
  }

  // \s*[\r\n]+, else as `spaces`
  size_t lines(size_t i) const {
    for (size_t end = run(i, kSpace); end > i; --end) {
      if (is_newline(end - 1)) return end;
    }
    return spaces(i);
  }

  size_t gpt2(size_t i) const {
    if (const size_t end = contraction(i, false); end > i) return end;
    const size_t begin = is_code(i, ' ') ? i + 1 : i;
    for (uint32_t classes : {kLetter, kNumber}) {
      if (const size_t end = run(begin, classes); end > begin) return end;
    }
    if (const size_t end = symbols(begin); end > begin) return end;
    return spaces(i);
  }

  size_t gpt4(size_t i, const SplitRule& rule) const {
    if (rule.kind == Kind::gpt4) {
      if (const size_t end = contraction(i, true); end > i) return end;
    }
    if (const size_t end = prefixed_word(i, rule); end > i) return end;
    if (const size_t end = run(i, kNumber, static_cast<size_t>(rule.max_digits)); end > i) return end;
    const size_t begin = is_code(i, ' ') ? i + 1 : i;
    if (size_t end = symbols(begin); end > begin) {
      while (is_newline(end) || (rule.kind == Kind::gpt4o && is_code(end, '/'))) ++end;
      return end;
    }
    return lines(i);
  }

  // [^\r\n\p{L}\p{N}]? and a word
  size_t prefixed_word(size_t i, const SplitRule& rule) const {
    const bool may_lead = i < size() && !is_newline(i) && !is(i, kLetter | kNumber);
    const size_t begin = may_lead ? i + 1 : i;
    if (rule.kind == Kind::gpt4) {
      const size_t end = run(begin, kLetter);
      return end > begin ? end : i;
    }
    for (auto cased_word : {&Scanner::lower_word, &Scanner::upper_word}) {
      size_t end = (this->*cased_word)(begin), from = begin;
      if (end == begin && may_lead) end = (this->*cased_word)(from = i);
      if (end > from) return rule.has_contractions ? contraction(end, true) : end;
    }
    return i;
  }

  // UPPER*LOWER+: upper case gives back its last character that may also be lower case.
  size_t lower_word(size_t i) const {
    const size_t uppers = run(i, kUpper);
    if (const size_t end = run(uppers, kLower); end > uppers) return end;
    for (size_t last = uppers; last > i; --last) {
      if (is(last - 1, kLower)) return run(last - 1, kLower);
    }
    return i;
  }

  // UPPER+LOWER*
  size_t upper_word(size_t i) const {
    const size_t uppers = run(i, kUpper);
    return uppers > i ? run(uppers, kLower) : i;
  }

  std::vector<Char> chars_;
};

}  // namespace

std::optional<SplitRule> rule_of_pattern(std::string_view pattern) {
  for (const Known& known : kKnown) {
    if (known.pattern == pattern) return known.rule;
  }
  return std::nullopt;
}

void split(std::string_view text, const SplitRule& rule, const std::function<void(std::string_view)>& visit) {
  const Scanner scanner(text);
  for (size_t at = 0; at < scanner.size();) {
    const size_t end = std::max(scanner.word(at, rule), at + 1);
    visit(text.substr(scanner.byte_of(at), scanner.byte_of(end) - scanner.byte_of(at)));
    at = end;
  }
}

}  // namespace edgeinfer
