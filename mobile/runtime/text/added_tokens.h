// Tokens that are found in a text before it is cut and merged: control tokens, and words that a model's author added.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace edgeinfer {

struct AddedToken {
  int32_t id;
  std::string text;
  bool is_control;     // "special" in tokenizer.json
  bool is_normalized;  // found in the normalized text
};

class AddedTokens {
 public:
  void add(AddedToken token);
  const std::vector<AddedToken>& all() const { return tokens_; }
  const AddedToken* find(int32_t id) const;

  // The longest token that begins at `at`, or nullptr.
  const AddedToken* at(std::string_view text, size_t at, bool normalized) const;

  // Calls `visit` with each stretch of `text`, and with the token that it is or nullptr. With `allow_control` false,
  // control tokens are text.
  void cut(std::string_view text, bool normalized, bool allow_control,
           const std::function<void(std::string_view, const AddedToken*)>& visit) const;

 private:
  std::vector<AddedToken> tokens_;
  std::array<std::vector<size_t>, 256> by_first_byte_;  // indices, the longest text first
};

}  // namespace edgeinfer
