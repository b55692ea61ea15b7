#include "fields.h"

#include <cmath>

#include "../error.h"
#include "file.h"

namespace edgeinfer {

Fields::Fields(Json object, std::string file, std::string where)
    : object_(object), file_(std::move(file)), where_(std::move(where)) {
  for_each_member(object, [&](std::string_view key, Json) { left_.emplace(key); });
}

void Fields::refuse(const std::string& cause) const { fail(kArtifactError, file_ + ": " + cause, kExportAgain); }

void Fields::refuse_here(const std::string& cause) const { refuse(where_.empty() ? cause : where_ + ": " + cause); }

std::string Fields::inside(std::string_view key) const {
  return (where_.empty() ? "" : where_ + ", ") + std::string(key);
}

void Fields::refuse_value(std::string_view key, std::string_view what) const {
  refuse_here("`" + std::string(key) + "` must be " + std::string(what));
}

Json Fields::take(std::string_view key, JsonKind kind, std::string_view what) {
  if (const auto found = left_.find(key); found != left_.end()) left_.erase(found);
  const std::optional<Json> value = object_.find(key);
  if (!value || value->is(JsonKind::null)) {
    refuse_here("`" + std::string(key) + "` is missing; expected " + std::string(what));
  }
  if (!value->is(kind)) refuse_value(key, what);
  return *value;
}

std::string Fields::text(std::string_view key) { return std::string(take(key, JsonKind::text, "a text").text()); }

int64_t Fields::integer(std::string_view key) {
  constexpr std::string_view kWhat = "a whole number >= 0";
  const std::optional<int64_t> value = take(key, JsonKind::number, kWhat).integer();
  if (!value || *value < 0) refuse_value(key, kWhat);
  return *value;
}

std::vector<std::string> Fields::texts(std::string_view key) {
  constexpr std::string_view kWhat = "a list of texts";
  std::vector<std::string> found;
  for (Json item : take(key, JsonKind::array, kWhat).items()) {
    if (!item.is(JsonKind::text)) refuse_value(key, kWhat);
    found.emplace_back(item.text());
  }
  return found;
}

std::vector<int32_t> Fields::ids(std::string_view key) {
  constexpr std::string_view kWhat = "a list of whole numbers";
  std::vector<int32_t> found;
  bool are_ids = true;
  for (Json item : take(key, JsonKind::array, kWhat).items()) {
    if (!item.is(JsonKind::number) || item.text().find_first_of(".eE") != std::string_view::npos) {
      refuse_value(key, kWhat);
    }
    const int64_t id = item.integer().value_or(-1);
    are_ids = are_ids && id >= 0 && id <= INT32_MAX;
    found.push_back(static_cast<int32_t>(id));
  }
  if (!are_ids) refuse("`" + std::string(key) + "` holds something that is not a token id");
  return found;
}

std::vector<double> Fields::numbers(std::string_view key) {
  std::vector<double> found;
  for (Json item : take(key, JsonKind::array, "a list of numbers").items()) {
    if (!item.is(JsonKind::number)) refuse_value(key, "a list of numbers");
    found.push_back(item.number());
  }
  for (double value : found) {
    if (!(std::fabs(value) < 1e30)) refuse_value(key, "a list of finite numbers");
  }
  return found;
}

Fields Fields::table(std::string_view key) {
  const Json inner = take(key, JsonKind::object, "a table");
  return Fields(inner, file_, inside(key));
}

std::optional<Fields> Fields::nullable(std::string_view key) {
  const std::optional<Json> value = object_.find(key);
  if (!value || !value->is(JsonKind::null)) return table(key);
  left_.erase(left_.find(key));
  return std::nullopt;
}

std::vector<Fields> Fields::tables(std::string_view key) {
  std::vector<Fields> found;
  if (!has(key)) return found;
  for (Json item : take(key, JsonKind::array, "an array of tables").items()) {
    if (!item.is(JsonKind::object)) refuse_value(key, "an array of tables");
    found.emplace_back(item, file_, inside(key) + " " + std::to_string(found.size() + 1));
  }
  return found;
}

std::vector<std::pair<std::string, Fields>> Fields::named(std::string_view key) {
  Fields inner = table(key);
  std::vector<std::pair<std::string, Fields>> found;
  for_each_member(inner.object_, [&](std::string_view name, Json) { found.emplace_back(name, inner.table(name)); });
  return found;
}

std::vector<std::pair<std::string, std::string>> Fields::all_texts() {
  std::vector<std::pair<std::string, std::string>> found;
  for_each_member(object_, [&](std::string_view name, Json) { found.emplace_back(name, text(name)); });
  return found;
}

void Fields::done() const {
  if (!left_.empty()) refuse_here("unknown key `" + *left_.begin() + "`");
}

}  // namespace edgeinfer
