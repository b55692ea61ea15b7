#include "encoding.h"

#include <algorithm>

#include "unicode.h"

namespace edgeinfer {

namespace {

constexpr size_t kContextChars = 64;          // read before a text, to encode it as a continuation
constexpr std::string_view kAnchor = "\x01";  // a byte token in SentencePiece, which merges with nothing
constexpr size_t kMaxMarkChars = 60;

bool is_one_of(uint32_t code, std::initializer_list<uint32_t> codes) {
  return std::find(codes.begin(), codes.end(), code) != codes.end();
}

bool opens_mark(uint32_t code) { return is_one_of(code, {'<', '[', 0x25C1, '{'}); }
bool closes_mark(uint32_t code) { return is_one_of(code, {'>', ']', 0x25B7, '}'}); }

bool is_in_mark(uint32_t code) {
  const bool is_space = (classes_of(code) & kSpace) || (code >= 0x1C && code <= 0x1F);
  return !is_space && !opens_mark(code) && !closes_mark(code) && !is_one_of(code, {'\'', '"'});
}

// The end of the mark that begins at `at`, such as <|end|> or [INST]; `at` where none does.
size_t end_of_mark(std::string_view text, size_t at) {
  CodePoint point = code_point_at(text, at);
  if (!opens_mark(point.code)) return at;
  size_t end = at + point.n_bytes;
  for (size_t n = 0; end < text.size(); ++n, end += point.n_bytes) {
    point = code_point_at(text, end);
    if (closes_mark(point.code)) return n > 0 ? end + point.n_bytes : at;
    if (!is_in_mark(point.code) || n == kMaxMarkChars) return at;
  }
  return at;
}

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// One token in some vocabularies, and no mark of a turn.
bool is_html_tag(std::string_view word) {
  if (word.size() < 3 || word.front() != '<' || word.back() != '>') return false;
  std::string_view name = word.substr(1, word.size() - 2);
  if (name.front() == '/') name.remove_prefix(1);
  return !name.empty() && is_letter(name[0]) &&
         std::all_of(name.begin(), name.end(), [](char c) { return is_letter(c) || (c >= '0' && c <= '9'); });
}

bool is_one_character(std::string_view text) { return !text.empty() && code_point_at(text, 0).n_bytes == text.size(); }

std::string_view last_chars(std::string_view text, size_t n) {
  size_t begin = text.size();
  while (begin > 0 && n > 0) {
    --begin;
    if ((static_cast<unsigned char>(text[begin]) & 0xC0) != 0x80) --n;
  }
  return text.substr(begin);
}

// Where the text begins that is read before `end`. A cut counts as a character: in Python a mark stands there.
size_t context_start(std::string_view text, const std::vector<size_t>& cuts, size_t end) {
  size_t begin = end;
  for (size_t n = kContextChars; begin > 0 && n > 0; --n) {
    begin -= last_chars(text.substr(0, begin), 1).size();
    if (n > 1 && std::binary_search(cuts.begin(), cuts.end(), begin)) --n;
  }
  return begin;
}

}  // namespace

Encoder::Encoder(const Tokenizer& tokenizer, const std::vector<std::string>& words) : tokenizer_(tokenizer) {
  for (const AddedToken& token : tokenizer.added().all()) {
    if (token.is_control && !is_one_character(token.text)) by_length_.push_back(token.text);
  }
  for (const std::string& word : words) {
    if (word.empty() || is_one_character(word)) continue;
    if (words_.insert(word).second) by_length_.push_back(word);
  }
  std::stable_sort(by_length_.begin(), by_length_.end(),
                   [](const std::string& a, const std::string& b) { return a.size() > b.size(); });
  for (const std::string& word : by_length_) begins_one_[static_cast<unsigned char>(word[0])] = true;
  std::string bytes;
  for (int32_t token : tokenizer.encode("x", false)) bytes += tokenizer.piece(token);
  adds_space_ = bytes == " x";
}

std::vector<size_t> Encoder::cuts_of(const Rendered& rendered) {
  const std::string_view text = rendered.text;
  std::vector<size_t> cuts;
  for (const Range& content : rendered.contents) {
    const std::string_view inside = text.substr(0, content.end);
    learn_marks(inside.substr(content.begin));
    for (bool found = true; found;) {  // again, as one token may overlap the next
      found = false;
      for (size_t at = content.begin; at < content.end;) {
        const size_t n = control_at(inside, at, cuts);
        if (n) {
          const size_t cut = at + code_point_at(inside, at).n_bytes;
          cuts.insert(std::lower_bound(cuts.begin(), cuts.end(), cut), cut);
          found = true;
        }
        at += n ? n : 1;
      }
    }
  }
  return cuts;
}

std::vector<int32_t> Encoder::encode(std::string_view text, const std::vector<size_t>& cuts, Range place) const {
  std::vector<int32_t> tokens;
  const size_t start = context_start(text, cuts, place.begin);
  const auto add = [&](size_t begin, size_t end, bool allow_special) {
    const std::string_view after = last_chars(text.substr(start, begin - start), kContextChars);
    const auto more = encode_after(text.substr(begin, end - begin), after, allow_special);
    tokens.insert(tokens.end(), more.begin(), more.end());
  };
  size_t plain = place.begin;  // begins what is not encoded yet, and holds no cut
  const auto add_stretch = [&](size_t begin, size_t end) {
    auto cut = std::upper_bound(cuts.begin(), cuts.end(), begin);
    if (cut == cuts.end() || *cut >= end) return;
    if (begin > plain) add(plain, begin, true);
    if (holds_a_word(text.substr(begin, end - begin))) {
      for (; cut != cuts.end() && *cut < end; ++cut) {
        add(begin, *cut, false);
        begin = *cut;
      }
    }
    add(begin, end, false);
    plain = end;
  };
  size_t begin = place.begin;  // of the stretch between two control tokens
  for (size_t at = place.begin; at < place.end;) {
    const size_t n = control_at(text.substr(0, place.end), at, cuts);
    if (n) {
      add_stretch(begin, at);
      begin = at + n;
    }
    at += n ? n : 1;
  }
  add_stretch(begin, place.end);
  if (plain < place.end) add(plain, place.end, true);
  return tokens;
}

std::vector<int32_t> Encoder::encode_after(std::string_view text, std::string_view after, bool allow_special) const {
  if (!adds_space_ || after.empty()) return tokenizer_.encode(text, allow_special);
  const std::vector<int32_t> before = tokenizer_.encode(after, true);
  if (allow_special) {
    const std::vector<int32_t> both = tokenizer_.encode(std::string(after).append(text), true);
    const auto n = static_cast<std::ptrdiff_t>(before.size());
    if (both.size() >= before.size() && std::equal(before.begin(), before.end(), both.begin())) {
      return {both.begin() + n, both.end()};
    }
  } else if (!before.empty() && tokenizer_.piece(before.back()).empty()) {
    return tokenizer_.encode(text, false);  // after a control token
  }
  const std::vector<int32_t> whole = tokenizer_.encode(std::string(kAnchor).append(text), allow_special);
  const auto n = static_cast<std::ptrdiff_t>(tokenizer_.encode(kAnchor, false).size());
  return {whole.begin() + n, whole.end()};
}

void Encoder::learn_marks(std::string_view content) {
  for (size_t at = 0; at < content.size();) {
    const size_t end = end_of_mark(content, at);
    const std::string_view word = content.substr(at, end - at);
    if (!word.empty() && !is_html_tag(word) && !words_.count(word) && tokenizer_.encode(word, false).size() == 1) {
      words_.emplace(word);
      const auto longer = [&](const std::string& other) { return other.size() >= word.size(); };
      by_length_.emplace(std::partition_point(by_length_.begin(), by_length_.end(), longer), word);
      begins_one_[static_cast<unsigned char>(word[0])] = true;
    }
    at = end > at ? end : at + code_point_at(content, at).n_bytes;
  }
}

size_t Encoder::control_at(std::string_view text, size_t at, const std::vector<size_t>& cuts) const {
  if (!begins_one_[static_cast<unsigned char>(text[at])]) return 0;
  for (const std::string& word : by_length_) {
    if (word[0] != text[at] || text.compare(at, word.size(), word) != 0) continue;
    const auto cut = std::upper_bound(cuts.begin(), cuts.end(), at);
    if (cut == cuts.end() || *cut >= at + word.size()) return word.size();
  }
  return 0;
}

bool Encoder::holds_a_word(std::string_view text) const {
  return std::any_of(words_.begin(), words_.end(),
                     [&](const std::string& word) { return text.find(word) != std::string_view::npos; });
}

}  // namespace edgeinfer
