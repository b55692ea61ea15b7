// How far a round should draft: backward induction over its drafts, by what the gate has learned and what drafts cost.
// edgeinfer/decode/policy/lookahead.py.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "gate.h"

namespace edgeinfer {

// Times in plain rounds. Both vectors have one for each number of verified drafts, from 0.
struct RoundTimes {
  double first_draft;
  double deeper_draft;
  std::vector<double> all_kept;      // verify of n drafts; the first is not used
  std::vector<double> last_dropped;  // verify of n drafts out of n + 1
};

struct LookAhead {
  // [drafts made][state]: one more draft pays if those made are right with this probability
  std::vector<std::array<double, kStates>> least_reached;
  // of a round that begins in this state: what it is expected to give and to take
  std::array<double, kStates> tokens;
  std::array<double, kStates> time;

  bool goes_on(std::size_t n_drafts, int state, double reached) const { return reached >= least_reached[n_drafts][state]; }
};

// `tokens_per_time` is what the time of a plain round would earn elsewhere, in tokens.
LookAhead look_ahead(const Gate& gate, const RoundTimes& times, double tokens_per_time);

}  // namespace edgeinfer
