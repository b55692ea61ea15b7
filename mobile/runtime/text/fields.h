// Reads a JSON object key by key, as edgeinfer/formats/tables.py does. A wrong type, a missing key and an unknown key
// are reported in one line each.
#pragma once

#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "json.h"

namespace edgeinfer {

// Throws Failure with kArtifactError for an invalid object. Read every key, then call `done`.
class Fields {
 public:
  // `file` and `where` in it name the object in causes.
  Fields(Json object, std::string file, std::string where = "");

  bool has(std::string_view key) const { return object_.find(key).has_value(); }
  std::string text(std::string_view key);
  int64_t integer(std::string_view key);  // >= 0
  std::vector<std::string> texts(std::string_view key);
  std::vector<int32_t> ids(std::string_view key);
  std::vector<double> numbers(std::string_view key);  // finite
  Fields table(std::string_view key);
  std::optional<Fields> nullable(std::string_view key);
  std::vector<Fields> tables(std::string_view key);
  std::vector<std::pair<std::string, Fields>> named(std::string_view key);
  std::vector<std::pair<std::string, std::string>> all_texts();
  void done() const;
  [[noreturn]] void refuse(const std::string& cause) const;

 private:
  Json take(std::string_view key, JsonKind kind, std::string_view what);
  std::string inside(std::string_view key) const;
  [[noreturn]] void refuse_here(const std::string& cause) const;
  [[noreturn]] void refuse_value(std::string_view key, std::string_view what) const;

  Json object_;
  std::string file_, where_;
  std::set<std::string, std::less<>> left_;
};

}  // namespace edgeinfer
