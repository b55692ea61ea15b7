#include "lookahead.h"

#include <algorithm>
#include <iterator>

namespace edgeinfer {
namespace {

// Probabilities that all drafts of a round so far are right, for which the choice is worked out. Values between them
// are interpolated.
constexpr double kReached[] = {0.0, 0.02, 0.05, 0.1, 0.17, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 1.0};
constexpr size_t kGrid = std::size(kReached);
constexpr double kNever = 2.0;

// What the rest of a round gives and takes.
struct Rest {
  double tokens;
  double time;

  double worth(double tokens_per_time) const { return tokens - tokens_per_time * time; }
};

using Rests = std::array<std::array<Rest, kGrid>, kStates>;  // [state][reached]

// The rest after `state`, where all drafts so far are right with the probability `reached`.
Rest at(const Rests& rests, int state, double reached) {
  const auto above = std::max<ptrdiff_t>(1, std::lower_bound(kReached, kReached + kGrid, reached) - kReached);
  const double share = (reached - kReached[above - 1]) / (kReached[above] - kReached[above - 1]);
  const Rest &low = rests[state][above - 1], &high = rests[state][above];
  return {low.tokens + share * (high.tokens - low.tokens), low.time + share * (high.time - low.time)};
}

}  // namespace

LookAhead look_ahead(const Gate& gate, const RoundTimes& times, double tokens_per_time) {
  const size_t max_drafts = times.all_kept.size() - 1;
  LookAhead ahead;
  ahead.least_reached.resize(max_drafts + 1);
  for (auto& least : ahead.least_reached) least.fill(kNever);
  Rests rests;
  for (auto& row : rests) row.fill({0.0, times.all_kept[max_drafts]});
  for (size_t n = max_drafts; n-- > 0;) {
    const Rest dropped{0.0, times.last_dropped[n]}, stop{0.0, times.all_kept[n]};
    const double draft = n ? times.deeper_draft : times.first_draft;
    std::array<std::array<Rest, kGrid>, kBuckets> next;  // after one more draft of this bucket, kept or dropped
    for (int state = 0; state < kBuckets; ++state)
      for (size_t i = 0; i < kGrid; ++i) {
        const double reached = gate.acceptance(state) * kReached[i];
        Rest kept = at(rests, state, reached);
        kept.tokens += reached;
        next[state][i] = kept.worth(tokens_per_time) > dropped.worth(tokens_per_time) ? kept : dropped;
      }
    for (int state = 0; state < kStates; ++state) {
      const auto following = gate.following(state);
      for (size_t i = kGrid; i-- > 0;) {
        Rest more{0.0, 0.0};
        for (int after = 0; after < kBuckets; ++after) {
          more.tokens += following[after] * next[after][i].tokens;
          more.time += following[after] * next[after][i].time;
        }
        more.time += draft;
        if (!n) {
          if (i + 1 == kGrid) ahead.tokens[state] = 1.0 + more.tokens, ahead.time[state] = more.time;
          continue;
        }
        const bool goes_on = more.worth(tokens_per_time) > stop.worth(tokens_per_time);
        if (goes_on && kReached[i] + more.worth(tokens_per_time) > -tokens_per_time * times.last_dropped[n - 1])
          ahead.least_reached[n][state] = kReached[i];
        rests[state][i] = goes_on ? more : stop;
      }
    }
  }
  return ahead;
}

}  // namespace edgeinfer
