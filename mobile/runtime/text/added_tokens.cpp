#include "added_tokens.h"

#include <algorithm>
#include <utility>

namespace edgeinfer {

void AddedTokens::add(AddedToken token) {
  if (token.text.empty()) return;
  std::vector<size_t>& alike = by_first_byte_[static_cast<unsigned char>(token.text[0])];
  const auto longer = [&](size_t index) { return tokens_[index].text.size() >= token.text.size(); };
  alike.insert(std::partition_point(alike.begin(), alike.end(), longer), tokens_.size());
  tokens_.push_back(std::move(token));
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto found =
      std::find_if(tokens_.begin(), tokens_.end(), [&](const AddedToken& token) { return token.id == id; });
  return found == tokens_.end() ? nullptr : &*found;
}

const AddedToken* AddedTokens::at(std::string_view text, size_t at, bool normalized) const {
  for (size_t index : by_first_byte_[static_cast<unsigned char>(text[at])]) {
    const AddedToken& token = tokens_[index];
    if (token.is_normalized == normalized && text.compare(at, token.text.size(), token.text) == 0) return &token;
  }
  return nullptr;
}

void AddedTokens::cut(std::string_view text, bool normalized, bool allow_control,
                      const std::function<void(std::string_view, const AddedToken*)>& visit) const {
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const AddedToken* token = this->at(text, at, normalized);
    if (!token) {
      ++at;
      continue;
    }
    const size_t end = at + token->text.size();
    if (allow_control || !token->is_control) {
      if (at > begin) visit(text.substr(begin, at - begin), nullptr);
      visit(text.substr(at, end - at), token);
      begin = end;
    }
    at = end;  // a control token that is text hides the tokens inside it
  }
  if (begin < text.size()) visit(text.substr(begin), nullptr);
}

}  // namespace edgeinfer
