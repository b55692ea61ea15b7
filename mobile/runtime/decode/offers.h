// What a drafter offers for the next round: expected tokens for expected time. edgeinfer/decode/policy/offers.py.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "../protocols.h"

namespace edgeinfer {

// The best of several noisy estimates is biased upwards, so drafters state more time than they expect.
constexpr double kOverestimate = 1.05;

// Time is in plain rounds. A plain round is one token for one.
struct Offer {
  Arm arm;
  double expected_tokens;
  double expected_time;

  double speedup() const { return expected_tokens / expected_time; }
};

// Estimates the rounds of one drafter from what it has learned in this conversation.
class Estimator {
 public:
  virtual ~Estimator() = default;

  virtual const std::string& name() const = 0;  // of the drafter
  // The best offer with at most `limit` drafts; none when there is nothing to draft.
  virtual std::optional<Offer> offer(int64_t limit) = 0;
  // Learn from a round of this drafter.
  virtual void observe(const Outcome& outcome) = 0;
};

// The number of drafts, out of `lengths` or 0, with the most tokens per time. `time(n)` is that of a round with n
// drafts. The name of the offer's arm is left empty.
Offer best_length(const std::vector<double>& acceptance, const std::function<double(int64_t)>& time,
                  const std::vector<int64_t>& lengths);

// How many of the drafts to verify: the most expected tokens, less `tokens_per_time` for the time of the verify.
int64_t n_worth_verifying(const std::vector<double>& acceptance, double tokens_per_time,
                          const std::function<double(int64_t)>& time);

}  // namespace edgeinfer
