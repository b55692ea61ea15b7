#include "json.h"

#include <cstdlib>
#include <cstring>

#include "unicode.h"

namespace edgeinfer {

namespace {

constexpr int kMaxDepth = 64;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

int hex_digit(char c) {
  if (is_digit(c)) return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

// Recursive descent. Texts are unescaped where they stand, which only makes them shorter.
class JsonParser {
 public:
  explicit JsonParser(JsonDocument& document)
      : source_(document.source_), nodes_(document.nodes_), size_(document.source_.size()) {}

  bool run() {
    space();
    if (!value(0)) return false;
    space();
    return at_ == size_;
  }

 private:
  char peek() const { return at_ < size_ ? source_[at_] : '\0'; }

  bool take(char wanted) {
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }

  void space() {
    while (at_ < size_ && std::strchr(" \t\r\n", source_[at_]) && source_[at_] != '\0') ++at_;
  }

  uint32_t open(JsonKind kind) {
    nodes_.push_back({kind, 0, static_cast<uint32_t>(at_), 0});
    return static_cast<uint32_t>(nodes_.size() - 1);
  }

  bool close(uint32_t index, size_t begin, size_t end) {
    nodes_[index].end = static_cast<uint32_t>(nodes_.size());
    nodes_[index].at = static_cast<uint32_t>(begin);
    nodes_[index].size = static_cast<uint32_t>(end - begin);
    return true;
  }

  bool value(int depth) {
    switch (peek()) {
      case '{':
        return depth < kMaxDepth && container(JsonKind::object, '}', depth);
      case '[':
        return depth < kMaxDepth && container(JsonKind::array, ']', depth);
      case '"':
        return text();
      case 't':
        return word("true", JsonKind::boolean);
      case 'f':
        return word("false", JsonKind::boolean);
      case 'n':
        return word("null", JsonKind::null);
      default:
        return number();
    }
  }

  bool container(JsonKind kind, char closing, int depth) {
    const uint32_t index = open(kind);
    const size_t begin = at_++;
    space();
    if (take(closing)) return close(index, begin, at_);
    while (true) {
      if (kind == JsonKind::object) {
        if (peek() != '"' || !text()) return false;
        space();
        if (!take(':')) return false;
        space();
      }
      if (!value(depth + 1)) return false;
      space();
      if (take(closing)) return close(index, begin, at_);
      if (!take(',')) return false;
      space();
    }
  }

  bool word(const char* wanted, JsonKind kind) {
    const size_t n = std::strlen(wanted), begin = at_;
    if (source_.compare(at_, n, wanted) != 0) return false;
    const uint32_t index = open(kind);
    at_ += n;
    return close(index, begin, at_);
  }

  bool digits() {
    if (!is_digit(peek())) return false;
    while (is_digit(peek())) ++at_;
    return true;
  }

  bool number() {
    const uint32_t index = open(JsonKind::number);
    const size_t begin = at_;
    take('-');
    if (!take('0') && !digits()) return false;
    if (take('.') && !digits()) return false;
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!digits()) return false;
    }
    return close(index, begin, at_);
  }

  bool text() {
    const uint32_t index = open(JsonKind::text);
    const size_t begin = ++at_;
    size_t out = begin;
    while (at_ < size_) {
      const char c = source_[at_++];
      if (c == '"') return close(index, begin, out);
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c != '\\') {
        source_[out++] = c;
      } else if (!escape(out)) {
        return false;
      }
    }
    return false;
  }

  bool escape(size_t& out) {
    static const char kNames[] = "\"\\/bfnrt", kMeanings[] = "\"\\/\b\f\n\r\t";
    const char name = peek();
    ++at_;
    if (name == 'u') return code_unit_escape(out);
    const char* found = name ? std::strchr(kNames, name) : nullptr;
    if (!found) return false;
    source_[out++] = kMeanings[found - kNames];
    return true;
  }

  bool code_unit_escape(size_t& out) {
    uint32_t code = 0;
    if (!code_unit(code)) return false;
    if (code >= 0xD800 && code < 0xDC00) {
      uint32_t low = 0;
      if (!take('\\') || !take('u') || !code_unit(low) || low < 0xDC00 || low > 0xDFFF) return false;
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    } else if (code >= 0xDC00 && code < 0xE000) {
      return false;
    }
    std::string encoded;
    append_utf8(encoded, code);
    encoded.copy(&source_[out], encoded.size());
    out += encoded.size();
    return true;
  }

  bool code_unit(uint32_t& code) {
    code = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const int digit = hex_digit(peek());
      if (digit < 0) return false;
      code = code << 4 | static_cast<uint32_t>(digit);
    }
    return true;
  }

  std::string& source_;
  std::vector<JsonDocument::Node>& nodes_;
  const size_t size_;
  size_t at_ = 0;
};

std::optional<JsonDocument> JsonDocument::parse(std::string source) {
  if (source.size() >= UINT32_MAX || !is_utf8(source)) return std::nullopt;
  JsonDocument document;
  document.source_ = std::move(source);
  if (!JsonParser(document).run()) return std::nullopt;
  return document;
}

JsonKind Json::kind() const { return document_->nodes_[index_].kind; }

std::string_view Json::text() const {
  const JsonDocument::Node& node = document_->nodes_[index_];
  return std::string_view(document_->source_).substr(node.at, node.size);
}

std::optional<int64_t> Json::integer() const {
  const std::string_view written = text();
  if (!is(JsonKind::number) || written.find_first_of(".eE") != std::string_view::npos) return std::nullopt;
  const bool negative = written[0] == '-';
  int64_t value = 0;
  for (char c : written.substr(negative)) {
    const int64_t digit = c - '0';
    if (value > (INT64_MAX - digit) / 10) return std::nullopt;
    value = 10 * value + digit;
  }
  return negative ? -value : value;
}

double Json::number() const { return std::strtod(std::string(text()).c_str(), nullptr); }

Json::Items Json::items() const {
  const bool has_items = is(JsonKind::array) || is(JsonKind::object);
  const uint32_t end = document_->nodes_[index_].end;
  return {document_, has_items ? index_ + 1 : end, end};
}

size_t Json::n_items() const {
  size_t n = 0;
  for (Json item : items()) {
    static_cast<void>(item);
    ++n;
  }
  return is(JsonKind::object) ? n / 2 : n;
}

std::optional<Json> Json::find(std::string_view key) const {
  std::optional<Json> found;
  for_each_member(*this, [&](std::string_view name, Json value) {
    if (!found && name == key) found = value;
  });
  return found;
}

}  // namespace edgeinfer
