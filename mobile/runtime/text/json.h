// JSON, read whole and strictly. Values are views into one flat document.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace edgeinfer {

enum class JsonKind : uint8_t { null, boolean, number, text, array, object };

class JsonDocument;

// A value inside a JsonDocument, which must outlive it.
class Json {
 public:
  class Iterator;
  class Items;

  JsonKind kind() const;
  bool is(JsonKind wanted) const { return kind() == wanted; }
  // A text without its escapes; a number or a boolean as it is written.
  std::string_view text() const;
  bool is_true() const { return is(JsonKind::boolean) && text() == "true"; }
  // A number without fraction and exponent that 64 bits hold.
  std::optional<int64_t> integer() const;
  double number() const;

  // Elements of an array; of an object, keys and values in turn.
  Items items() const;
  size_t n_items() const;
  // The first member of an object by its key; nothing for another kind of value.
  std::optional<Json> find(std::string_view key) const;

 private:
  friend class JsonDocument;
  Json(const JsonDocument* document, uint32_t index) : document_(document), index_(index) {}

  const JsonDocument* document_;
  uint32_t index_;
};

class JsonDocument {
 public:
  // Nothing where `source` is not JSON, or nests deeper than 64 levels.
  static std::optional<JsonDocument> parse(std::string source);

  Json root() const { return Json(this, 0); }

 private:
  friend class Json;
  friend class JsonParser;

  struct Node {
    JsonKind kind;
    uint32_t end;  // index after the last node inside this one
    uint32_t at;   // its text, in `source_`
    uint32_t size;
  };

  std::string source_;
  std::vector<Node> nodes_;
};

class Json::Iterator {
 public:
  Iterator(const JsonDocument* document, uint32_t index) : document_(document), index_(index) {}
  Json operator*() const { return Json(document_, index_); }
  Iterator& operator++() {
    index_ = document_->nodes_[index_].end;
    return *this;
  }
  bool operator!=(const Iterator& other) const { return index_ != other.index_; }

 private:
  const JsonDocument* document_;
  uint32_t index_;
};

class Json::Items {
 public:
  Items(const JsonDocument* document, uint32_t begin, uint32_t end) : document_(document), begin_(begin), end_(end) {}
  Iterator begin() const { return {document_, begin_}; }
  Iterator end() const { return {document_, end_}; }

 private:
  const JsonDocument* document_;
  uint32_t begin_, end_;
};

// Calls `visit(key, value)` for each member of an object.
template <class Visit>
void for_each_member(Json object, Visit visit) {
  if (!object.is(JsonKind::object)) return;
  const Json::Items items = object.items();
  for (auto at = items.begin(); at != items.end(); ++at) {
    const std::string_view key = (*at).text();
    ++at;
    visit(key, *at);
  }
}

}  // namespace edgeinfer
