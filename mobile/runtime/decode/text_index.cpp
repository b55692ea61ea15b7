#include "text_index.h"

#include <algorithm>
#include <utility>

namespace edgeinfer {
namespace {

constexpr int64_t kSlots = 1 << 15;
constexpr int64_t kHashMultiplier = 40503;  // odd, about 2^16 over the golden ratio, so that pairs spread
constexpr int64_t kMaxChain = 12;           // positions of a slot that are searched, newest first

// `part`, extended to `limit` by repeating its last `period` elements.
template <class Part>
Part repeated(Part part, int64_t limit, int64_t period) {
  while (static_cast<int64_t>(part.size()) < limit) part.push_back(part[part.size() - static_cast<size_t>(period)]);
  return part;
}

}  // namespace

TextIndex::TextIndex() : forks_(1, 0), singles_(kSlots, -1), pairs_(kSlots, -1) {}

void TextIndex::add(int32_t token) {
  if (!tokens_.empty()) note_fork(token);
  const int64_t last = tokens_.empty() ? 0 : tokens_.back();
  tokens_.push_back(token);
  const int32_t end = static_cast<int32_t>(size());
  int64_t single = std::exchange(singles_[token % kSlots], end);
  earlier_single_.push_back(static_cast<int32_t>(single));
  if (single > 0 && !ends_alike(single, 1)) single = newest_equal(1);
  int64_t pair = std::exchange(pairs_[(last * kHashMultiplier + token) % kSlots], end);
  earlier_pair_.push_back(static_cast<int32_t>(pair));
  if (pair < 2)  // no token stands before the first one
    pair = -1;
  else if (!ends_alike(pair, 2))
    pair = newest_equal(2);
  single_ = single;
  pair_ = pair;
  const uint8_t fork = pair > 0 ? forks_[pair] : 0;
  forks_.push_back(!fork && single > 0 && forks_[single] ? 1 : fork);
}

std::optional<Match> TextIndex::longest_match() const {
  Match best{0, 0};
  int64_t position = pair_;
  for (int64_t i = 0; i < kMaxChain && position >= 0; ++i) {
    const int64_t length = common(position);
    if (length > best.length) best = {position, length};
    position = earlier_pair_[position - 1];
  }
  if (best.length > 1) return best;
  if (single_ > 0) return Match{single_, 1};
  return std::nullopt;
}

Tokens TextIndex::after(const Match& match, int64_t limit) const {
  const auto first = tokens_.begin() + match.source;
  return repeated(Tokens(first, first + std::min(limit, size() - match.source)), limit, size() - match.source);
}

std::vector<uint8_t> TextIndex::forks_after(const Match& match, int64_t limit) const {
  const int64_t n = std::min(limit, static_cast<int64_t>(forks_.size()) - match.source);
  const auto first = forks_.begin() + match.source;
  auto forks = repeated(std::vector<uint8_t>(first, first + n), limit, size() - match.source);
  forks[0] = fork_at(match);
  return forks;
}

uint8_t TextIndex::fork_at(const Match& match) const {
  const uint8_t fork = forks_[match.source];
  return match.length > 1 ? fork : std::min<uint8_t>(fork, 1);  // a fork after two tokens says nothing of one
}

// `token` comes next. If a different token followed an earlier occurrence of this context, all occurrences are forks.
void TextIndex::note_fork(int32_t token) {
  const int64_t end = size();
  const uint8_t fork = forks_[end];
  if (fork == 2) return;
  for (const auto& [n, newest] : {std::pair<int64_t, int64_t>{1, single_}, {2, pair_}}) {
    if (fork >= n || newest <= 0 || tokens_[newest] == token) continue;
    const uint8_t mark = static_cast<uint8_t>(n);
    forks_[end] = mark;
    for_equal_positions(n, end, [&](int64_t position) {
      forks_[position] = mark;
      return true;
    });
  }
}

bool TextIndex::ends_alike(int64_t position, int64_t n) const {
  return std::equal(tokens_.end() - n, tokens_.end(), tokens_.begin() + position - n);
}

template <class Found>
void TextIndex::for_equal_positions(int64_t n, int64_t most, const Found& found) const {
  const Positions& earlier = n == 1 ? earlier_single_ : earlier_pair_;
  int64_t position = size();
  for (int64_t i = 0; i < most; ++i) {
    position = earlier[position - 1];
    if (position < n || (ends_alike(position, n) && !found(position))) return;
  }
}

int64_t TextIndex::newest_equal(int64_t n) const {
  int64_t newest = -1;
  for_equal_positions(n, kMaxChain, [&](int64_t position) {
    newest = position;
    return false;
  });
  return newest;
}

// How many tokens before `position` equal the newest ones.
int64_t TextIndex::common(int64_t position) const {
  const int64_t end = size(), most = std::min(position, kLongestMatch);
  int64_t length = 0;
  while (length < most && tokens_[position - 1 - length] == tokens_[end - 1 - length]) ++length;
  return length;
}

}  // namespace edgeinfer
