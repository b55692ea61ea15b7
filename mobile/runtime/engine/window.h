// The window: which positions a query sees, where a key is kept, how far a forward may go. As edgeinfer/window.py.
#pragma once

#include <algorithm>
#include <cstdint>

namespace edgeinfer {

// The first `sink` positions stay, and at most `window` recent ones; `limit` is the first unusable position.
struct WindowPolicy {
  int64_t window;
  int64_t sink;
  int64_t block;
  int64_t limit;

  int64_t slots() const { return sink + window; }

  // The place of `position` in a ring of `slots`.
  int64_t slot(int64_t position) const { return position < sink ? position : sink + position % window; }

  // The oldest position that is recent for `query`; sinks are visible as well.
  int64_t oldest(int64_t query) const { return std::max<int64_t>(0, query / block * block - (window - block)); }

  // How many rows one forward may add at `length` committed positions; 0 at the limit.
  int64_t room(int64_t length) const {
    const int64_t free = length < window ? window - length : block - length % block;
    return std::min(free, limit - length);
  }

  // Positions from `sink` to this one are seen by no query at `length` or later.
  int64_t evicted_end(int64_t length) const { return std::max(sink, oldest(length)); }
  int64_t n_evicted(int64_t length) const { return evicted_end(length) - sink; }

  // Whether a cache of `length` positions still holds every key that a query at `target` sees.
  bool can_rewind(int64_t length, int64_t target) const {
    return target == 0 || (0 <= target && target <= length && n_evicted(length) == n_evicted(target));
  }
};

}  // namespace edgeinfer
