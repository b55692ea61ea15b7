#include "history.h"

#include <algorithm>

namespace edgeinfer {

Prompt History::prompt(const Rendered& rendered) {
  set(rendered);
  Prompt prompt;
  prompt.tokens = tokens_;
  if (const Mark* lead = mark_at(static_cast<int64_t>(rendered.lead)))
    prompt.n_system = static_cast<int64_t>(lead->n_tokens);
  else  // its last token holds the first characters of the question, too
    prompt.n_system = common_prefix(encoder_.encode(text_, cuts_, {0, rendered.lead}), tokens_);
  for (const int64_t end : rendered.ends) {
    const Mark* mark = mark_at(end);
    if (mark && mark->n_tokens) prompt.starts.push_back(static_cast<int64_t>(mark->n_tokens));
  }
  return prompt;
}

void History::answered(const Tokens& tokens, const std::string& text) {
  Rendered answer;
  answer.text = text;
  answer.contents.push_back({0, text.size()});
  for (const size_t cut : encoder_.cuts_of(answer)) cuts_.push_back(text_.size() + cut);
  text_ += text;
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  marks_.push_back({text_.size(), tokens_.size()});
}

// Keeps the tokens up to the last mark in the text that stayed the same, and encodes the rest.
void History::set(const Rendered& rendered) {
  const std::string& text = rendered.text;
  std::vector<size_t> cuts = encoder_.cuts_of(rendered);
  const size_t same = n_same(text, cuts);
  while (marks_.back().n_bytes > same) marks_.pop_back();
  const Mark last = marks_.back();
  const Tokens rest = encoder_.encode(text, cuts, {last.n_bytes, text.size()});
  std::vector<size_t> ends{rendered.lead, text.size()};
  for (const int64_t end : rendered.ends)
    if (end >= 0) ends.push_back(static_cast<size_t>(end));
  std::sort(ends.begin(), ends.end());
  std::vector<Mark> more;
  Tokens joined;
  size_t at = last.n_bytes;
  for (const size_t end : ends) {
    if (end <= at) continue;
    const Tokens piece = encoder_.encode(text, cuts, {at, end});
    joined.insert(joined.end(), piece.begin(), piece.end());
    more.push_back({end, last.n_tokens + joined.size()});
    at = end;
  }
  tokens_.resize(last.n_tokens);
  tokens_.insert(tokens_.end(), rest.begin(), rest.end());
  if (joined != rest) more = {{text.size(), tokens_.size()}};
  marks_.insert(marks_.end(), more.begin(), more.end());
  text_ = text;
  cuts_ = std::move(cuts);
}

// Bytes at the front of the text that are equal and have the same cuts.
size_t History::n_same(const std::string& text, const std::vector<size_t>& cuts) const {
  const auto differ = std::mismatch(text_.begin(), text_.end(), text.begin(), text.end());
  const size_t same = static_cast<size_t>(differ.first - text_.begin());
  const auto cut = std::mismatch(cuts_.begin(), cuts_.end(), cuts.begin(), cuts.end());
  const size_t old_cut = cut.first == cuts_.end() ? same : *cut.first;
  const size_t new_cut = cut.second == cuts.end() ? same : *cut.second;
  return std::min({same, old_cut, new_cut});
}

const History::Mark* History::mark_at(int64_t n_bytes) const {
  const auto is_before = [](const Mark& mark, int64_t bytes) { return static_cast<int64_t>(mark.n_bytes) < bytes; };
  const auto at = std::lower_bound(marks_.begin(), marks_.end(), n_bytes, is_before);
  return at != marks_.end() && static_cast<int64_t>(at->n_bytes) == n_bytes ? &*at : nullptr;
}

}  // namespace edgeinfer
