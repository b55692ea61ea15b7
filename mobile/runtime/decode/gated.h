// Drafts with the model's own early layers, one token at a time, and stops at the first unsure one:
// edgeinfer/decode/drafters/gated.py and early_exit.py.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "clock.h"
#include "costs.h"
#include "gate.h"
#include "offers.h"

namespace edgeinfer {

constexpr int64_t kMaxDrafts = 8;

class Gated : public Drafter {
 public:
  Gated(Costs& costs, int64_t n_vocab, Clock clock = steady_s)
      : costs_(costs), n_vocab_(n_vocab), clock_(std::move(clock)) {}

  const std::string& name() const override { return name_; }
  void reset(const Tokens& context) override;
  void extend(const Tokens& tokens) override;
  Tokens propose(DraftRound& round, int64_t limit) override;

  // Confidence bucket of the newest draft in the last round of this drafter, or kUnknown.
  int state() const { return state_; }
  // What the time of a draft would earn elsewhere, in tokens per plain round.
  void set_tokens_per_time(double value) { tokens_per_time_ = value; }
  // The verify of the last round, with `drafted` drafts, took this long.
  void observe_verify(int64_t drafted, double seconds);
  // Plain rounds that the last round should have taken, with `drafted` of its drafts verified.
  double expected_time(int64_t drafted) const;
  // Plain rounds that a round of one draft takes, when the draft is verified with this probability.
  double expected_time_of_one(double p_verified) const;

 private:
  int32_t draft(DraftRound& round, int32_t token, int& state);
  Part verify_part(int64_t n) const { return n_drafts_ > n ? Part::back : Part::back_short; }
  double verify_time(int64_t n) const { return costs_.ratio(verify_part(n), n + 1); }

  const std::string name_ = "early-exit";
  Costs& costs_;
  int64_t n_vocab_;
  Clock clock_;
  double tokens_per_time_ = 1.0;
  Gate gate_;
  int32_t last_ = 0;  // emitted token
  Tokens drafts_;     // of the running round, also those not proposed
  std::vector<int> states_;
  int64_t n_drafts_ = 0;  // of the last round, also those not proposed
  int state_ = kUnknown;  // in which the last round ended
};

// A gated drafter decides its depth inside the round. Its offer is the mean of past rounds that started in a similar
// confidence state, shrunk towards the mean of all its rounds while the sample is small.
class GatedEstimator : public Estimator {
 public:
  GatedEstimator(Gated& gated, Costs& costs);

  const std::string& name() const override { return gated_.name(); }
  std::optional<Offer> offer(int64_t limit) override;
  void observe(const Outcome& outcome) override;

 private:
  // Running means of the tokens and the time of a round.
  struct Mean {
    double tokens = 0.0, time = 0.0, rounds = 0.0;
    void add(double new_tokens, double new_time);
  };

  Gated& gated_;
  Costs& costs_;
  int64_t max_depth_;
  std::array<Mean, 4> means_;  // by group of states
  Mean all_;
  size_t group_;
  std::optional<Offer> offer_;  // holds until the next round of this drafter
};

}  // namespace edgeinfer
