// The tokens held by a cache, and how much of a new prompt can reuse them: edgeinfer/decode/timeline.py.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/window.h"
#include "protocols.h"

namespace edgeinfer {

// Indices of tokens from `start` to before `stop`.
struct Span {
  int64_t start = 0;
  int64_t stop = 0;

  int64_t size() const { return stop - start; }
};

// All tokens of a conversation, and the `gap` of tokens that a re-anchoring left out of the cache.
//
// The cache's length is the only truth about what was run: `tokens` may run ahead of it, until `settle`.
struct Timeline {
  Tokens tokens;
  Span gap;

  // Positions that the first `index` tokens take.
  int64_t position(int64_t index) const;
  // Tokens that the first `length` positions hold, those of the gap included.
  int64_t index(int64_t length) const;
  // Forget what a cache of `length` positions does not hold.
  void settle(int64_t length);
};

// How a prompt uses the cache: keep `length` positions, leave `gap` out, run the other tokens.
struct Reuse {
  int64_t length;
  Span gap;
  int64_t shared;  // tokens at the front that the timeline holds, run before

  // Indices of the prompt's tokens to run, in order.
  std::vector<int64_t> runs(int64_t n_tokens) const;
};

// How much of a cache of `length` positions `prompt` can reuse. The last token always runs, because its row is needed.
//
// Starts again at position 0 where the keys of the shared tokens are evicted, or the prompt does not fit below the
// limit: with all tokens if they fit the window or are another conversation, else re-anchored. Throws Failure when the
// system prompt passes the sink, or the last two messages pass the limit.
Reuse reuse(const Timeline& timeline, int64_t length, const Prompt& prompt, const WindowPolicy& policy);

// The tokens to leave out so that the system prompt and the newest `window / 2` of `n_tokens` stay. The cut moves to
// the nearest message start, if one is at most a block away.
Span anchor(const Prompt& prompt, int64_t n_tokens, const WindowPolicy& policy);

}  // namespace edgeinfer
