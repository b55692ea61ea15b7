// Drafts with the model's own early layers or a taught draft, one token at a time, and stops at the first unsure one:
// edgeinfer/decode/drafters/gated.py, early_exit.py and taught.py.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "clock.h"
#include "costs.h"
#include "gate.h"
#include "lookahead.h"
#include "offers.h"

namespace edgeinfer {

constexpr int64_t kMaxDrafts = 8;

// Where the drafts come from. By default, from the model's early layers.
struct DraftSource {
  std::string name = "early-exit";
  Part whole_part = Part::back;        // the verify, when every verified token was the input of a draft
  Part short_part = Part::back_short;  // the verify, when every one but the newest was
  bool reads_prompt = false;           // the first draft of an answer takes longer: it reads what came before
  std::optional<double> agreement{};   // the share of right first drafts, where it is known
};

class Gated : public Drafter {
 public:
  Gated(Costs& costs, int64_t n_vocab, DraftSource source = {}, Clock clock = steady_s)
      : source_(std::move(source)), costs_(costs), n_vocab_(n_vocab), clock_(std::move(clock)) {}

  const std::string& name() const override { return source_.name; }
  void reset(const Tokens& context) override;
  void extend(const Tokens& tokens) override;
  Tokens propose(DraftRound& round, int64_t limit) override;

  int64_t max_depth() const { return std::min(kMaxDrafts, costs_.max_rows() - 1); }
  // State of the gate before the next round.
  int state() const { return state_; }
  // What rounds are expected to give, and how far they draft.
  const LookAhead& ahead();
  // The verify of the last round, with `drafted` drafts, took this long.
  void observe_verify(int64_t drafted, double seconds);
  // Whether the last round's time is that of its drafts alone.
  bool has_read_prompt() const { return !source_.reads_prompt || n_rounds_ > 1; }
  // Plain rounds that the last round should have taken, with `drafted` of its drafts verified.
  double expected_time(int64_t drafted) const;

 private:
  void look();
  int32_t draft(DraftRound& round, int32_t token, int& state);
  Part verify_part(int64_t n) const { return n_drafts_ > n ? source_.whole_part : source_.short_part; }
  double verify_time(int64_t n) const { return costs_.ratio(verify_part(n), n + 1); }

  const DraftSource source_;
  Costs& costs_;
  int64_t n_vocab_;
  Clock clock_;
  double tokens_per_time_ = 1.0;  // what the time of a plain round would earn elsewhere, in tokens
  Gate gate_{source_.agreement};
  int32_t last_ = 0;  // emitted token
  Tokens drafts_;     // of the running round, also those not proposed
  std::vector<int> states_;
  int64_t n_drafts_ = 0;  // of the last round, also those not proposed
  int64_t n_rounds_ = 0;  // of this answer
  int state_ = kUnknown;  // in which the last round ended
  LookAhead ahead_;
  int64_t look_after_ = 0, until_look_ = 0;  // rounds
};

// Offers the rounds of a gated drafter: what its gate expects, in the mean time that such rounds have really
// taken: costs are near medians, and on a busy machine the mean is far from the sum of the parts' medians.
class GatedEstimator : public Estimator {
 public:
  GatedEstimator(Gated& gated, Costs& costs) : gated_(gated), costs_(costs) {}

  const std::string& name() const override { return gated_.name(); }
  std::optional<Offer> offer(int64_t limit) override;
  void observe(const Outcome& outcome) override;

 private:
  static constexpr double kPriorTime = 6.0;  // plain rounds, as long as expected

  Gated& gated_;
  Costs& costs_;
  double expected_ = kPriorTime, taken_ = kPriorTime;  // time of the last rounds, fading
};

}  // namespace edgeinfer
