#include "tokenizer.h"

#include "byte_alphabet.h"
#include "composition.h"
#include "unicode.h"

namespace edgeinfer {

namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

bool starts_with(std::string_view text, std::string_view start) { return text.substr(0, start.size()) == start; }

// The byte that `<0xNN>` stands for, or -1.
int byte_of_name(std::string_view text) {
  if (text.size() != 6 || text.substr(0, 3) != "<0x" || text[5] != '>') return -1;
  int byte = 0;
  for (char c : text.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
    if (digit < 0) return -1;
    byte = 16 * byte + digit;
  }
  return byte;
}

std::string in_alphabet(std::string_view bytes) {
  std::string text;
  for (char byte : bytes) append_utf8(text, character_of_byte(static_cast<unsigned char>(byte)));
  return text;
}

std::string from_alphabet(std::string_view text) {
  std::string bytes;
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = code_point_at(text, at);
    const int byte = byte_of_character(point.code);
    if (byte >= 0) {
      bytes.push_back(static_cast<char>(byte));
    } else {
      bytes.append(text.substr(at, point.n_bytes));
    }
    at += point.n_bytes;
  }
  return bytes;
}

std::string with_each(std::string_view text, std::string_view from, std::string_view to) {
  std::string changed;
  size_t at = 0;
  for (size_t found; (found = text.find(from, at)) != std::string_view::npos; at = found + from.size()) {
    changed.append(text.substr(at, found - at)).append(to);
  }
  return changed.append(text.substr(at));
}

}  // namespace

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool allow_special) const {
  std::vector<int32_t> ids;
  const auto cut = [&](std::string_view part, bool normalized, const auto& visit) {
    added_.cut(part, normalized, allow_special, [&](std::string_view stretch, const AddedToken* token) {
      if (token) {
        ids.push_back(token->id);
      } else {
        visit(stretch);
      }
    });
  };
  cut(text, false, [&](std::string_view raw) {
    cut(raw, true, [&](std::string_view stretch) { encode_stretch(stretch, stretch.data() == text.data(), ids); });
  });
  return ids;
}

void Tokenizer::encode_stretch(std::string_view text, bool is_first, std::vector<int32_t>& ids) const {
  if (rules_.composes) return encode_words(composed(text), 0, ids);
  if (!rules_.replaces_spaces) return encode_words(text, 0, ids);
  std::string marked = with_each(text, " ", kSpaceMark);
  using Lead = TokenizerRules::Lead;
  const bool is_bare = !starts_with(marked, kSpaceMark);
  if (rules_.lead == Lead::every_stretch || (is_bare && rules_.lead == Lead::bare_stretches) ||
      (is_bare && is_first && rules_.lead == Lead::first_stretch)) {
    marked.insert(0, kSpaceMark);
  }
  if (!rules_.splits_at_spaces) return encode_words(marked, 0, ids);
  const std::string_view whole = marked;
  for (size_t begin = 0, end; begin < whole.size(); begin = end) {
    end = whole.find(kSpaceMark, begin + 1);
    if (end == std::string_view::npos) end = whole.size();
    encode_words(whole.substr(begin, end - begin), 0, ids);
  }
}

void Tokenizer::encode_words(std::string_view text, size_t n_splits, std::vector<int32_t>& ids) const {
  if (n_splits == rules_.splits.size()) return encode_word(text, ids);
  split(text, rules_.splits[n_splits], [&](std::string_view word) { encode_words(word, n_splits + 1, ids); });
}

void Tokenizer::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  if (rules_.takes_whole_words) {
    const int32_t id = rules_.is_byte_level ? vocabulary_.id_of(in_alphabet(word)) : vocabulary_.id_of(word);
    if (id != kNoToken) return ids.push_back(id);
  }
  std::vector<int32_t> tokens = characters(word);
  merge_all(merges_, tokens);
  ids.insert(ids.end(), tokens.begin(), tokens.end());
}

// The token of each byte or character. What has none is its bytes, unknown, or dropped.
std::vector<int32_t> Tokenizer::characters(std::string_view word) const {
  std::vector<int32_t> tokens;
  bool is_unknown_pending = false;  // fused with those that follow
  const auto flush = [&] {
    if (is_unknown_pending) tokens.push_back(rules_.unknown);
    is_unknown_pending = false;
  };
  for (size_t at = 0, n; at < word.size(); at += n) {
    n = rules_.is_byte_level ? 1 : code_point_at(word, at).n_bytes;
    const std::string_view character = word.substr(at, n);
    const int32_t id =
        rules_.is_byte_level ? byte_tokens_[static_cast<unsigned char>(word[at])] : vocabulary_.id_of(character);
    if (id != kNoToken) {
      flush();
      tokens.push_back(id);
    } else if (rules_.has_byte_fallback) {  // a tokenizer with this has a token for every byte
      for (char byte : character) tokens.push_back(byte_tokens_[static_cast<unsigned char>(byte)]);
    } else if (rules_.unknown != kNoToken) {
      if (!rules_.fuses_unknown) flush();
      is_unknown_pending = true;
    }
  }
  flush();
  return tokens;
}

std::string Tokenizer::piece(int32_t id) const {
  const AddedToken* added = added_.find(id);
  if (added && added->is_control) return "";
  const std::string_view text = added ? std::string_view(added->text) : vocabulary_.text_of(id);
  if (rules_.is_byte_level) return from_alphabet(text);
  if (const int byte = byte_of_name(text); byte >= 0) return std::string(1, static_cast<char>(byte));
  return with_each(text, kSpaceMark, " ");
}

}  // namespace edgeinfer
