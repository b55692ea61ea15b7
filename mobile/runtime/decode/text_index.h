// Finds earlier occurrences of the newest tokens of a growing text, and marks where the text forked:
// edgeinfer/decode/drafters/text_index.py. A position is the number of tokens before it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "../protocols.h"

namespace edgeinfer {

constexpr int64_t kLongestMatch = 48;  // longer matches are not told apart

// The next tokens are expected at `source`; `length` tokens before it equal the newest ones.
struct Match {
  int64_t source;
  int64_t length;
};

class TextIndex {
 public:
  TextIndex();

  const Tokens& tokens() const { return tokens_; }
  void add(int32_t token);
  // The longest match among the newest occurrences of the last two tokens; else an occurrence of the last token.
  std::optional<Match> longest_match() const;
  // The `limit` tokens predicted from `match`. Beyond the end of the text, they repeat with its period.
  Tokens after(const Match& match, int64_t limit) const;
  // Forks of the same positions. 0: the token before was always followed by the same token; 1: by different ones, but
  // the last two tokens were not; 2: the last two were, too.
  std::vector<uint8_t> forks_after(const Match& match, int64_t limit) const;
  uint8_t fork_at(const Match& match) const;

 private:
  using Positions = std::vector<int32_t>;

  int64_t size() const { return static_cast<int64_t>(tokens_.size()); }
  void note_fork(int32_t token);
  bool ends_alike(int64_t position, int64_t n) const;
  int64_t newest_equal(int64_t n) const;
  int64_t common(int64_t position) const;
  // Calls `found` with earlier positions after the same `n` tokens (1 or 2), newest first, until it says no.
  template <class Found>
  void for_equal_positions(int64_t n, int64_t most, const Found& found) const;

  Tokens tokens_;
  std::vector<uint8_t> forks_;
  Positions singles_, pairs_;  // the newest position of each slot, or -1
  Positions earlier_single_, earlier_pair_;
  int64_t single_ = -1, pair_ = -1;  // newest earlier position with the same last token; last two
};

}  // namespace edgeinfer
