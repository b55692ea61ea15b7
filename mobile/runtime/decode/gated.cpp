#include "gated.h"

#include <algorithm>

namespace edgeinfer {
namespace {

// Rounds of a conversation, of any drafter, after which the look-ahead is worked out again; then after twice as many,
// up to the most.
constexpr int64_t kFirstLook = 16, kMaxLook = 64;
constexpr double kMemoryRounds = 64.0;

}  // namespace

void Gated::reset(const Tokens& context) {
  last_ = context.back();
  drafts_.clear();
  states_.clear();
  n_rounds_ = 0;
  state_ = kUnknown;
  gate_.begin_answer();
}

void Gated::extend(const Tokens& tokens) {
  --until_look_;
  state_ = states_.empty() ? kUnknown : states_.back();
  for (size_t i = 0; i < std::min(drafts_.size(), tokens.size()); ++i) {  // ends at the first miss
    const bool hit = drafts_[i] == tokens[i];
    gate_.learn(states_[i], hit);
    if (!hit) state_ = kMissed;
  }
  drafts_.clear();
  states_.clear();
  last_ = tokens.back();
}

Tokens Gated::propose(DraftRound& round, int64_t limit) {
  drafts_.clear();
  states_.clear();
  ++n_rounds_;
  const LookAhead& ahead = this->ahead();
  int32_t token = last_;
  int state = state_;
  double reached = 1.0;
  while (static_cast<int64_t>(drafts_.size()) < limit) {
    if (!drafts_.empty() && !ahead.goes_on(drafts_.size(), state, reached)) break;
    int after = 0;
    token = draft(round, token, after);
    gate_.learn_transition(state, after);
    state = after;
    reached *= gate_.acceptance(state);
    drafts_.push_back(token);
    states_.push_back(state);
  }
  n_drafts_ = static_cast<int64_t>(drafts_.size());
  std::vector<double> acceptance;
  for (const int each : states_) acceptance.push_back(gate_.acceptance(each));
  const int64_t n = n_worth_verifying(acceptance, tokens_per_time_, [&](int64_t rows) { return verify_time(rows); });
  return Tokens(drafts_.begin(), drafts_.begin() + n);
}

const LookAhead& Gated::ahead() {
  if (until_look_ <= 0) {
    look_after_ = until_look_ = std::clamp(2 * look_after_, kFirstLook, kMaxLook);
    look();
  }
  return ahead_;
}

void Gated::look() {
  RoundTimes times{costs_.ratio(Part::exit_draft, kFirst), costs_.ratio(Part::exit_draft, kDeeper), {}, {}};
  for (int64_t rows = 1; rows <= max_depth() + 1; ++rows) {
    times.all_kept.push_back(costs_.ratio(source_.short_part, rows));
    times.last_dropped.push_back(costs_.ratio(source_.whole_part, rows));
  }
  ahead_ = look_ahead(gate_, times, tokens_per_time_);
  tokens_per_time_ = std::max(1.0, ahead_.tokens[kUnknown] / ahead_.time[kUnknown]);  // for the next time
}

int32_t Gated::draft(DraftRound& round, int32_t token, int& state) {
  const double began = clock_();
  const Row row = round.draft(token);
  state = bucket(confidence(row.logits, n_vocab_, row.token));
  if (!drafts_.empty() || has_read_prompt())
    costs_.observe(Part::exit_draft, drafts_.empty() ? kFirst : kDeeper, clock_() - began);
  return row.token;
}

void Gated::observe_verify(int64_t drafted, double seconds) {
  costs_.observe(verify_part(drafted), drafted + 1, seconds);
}

double Gated::expected_time(int64_t drafted) const {
  const double deeper = static_cast<double>(n_drafts_ - 1) * costs_.ratio(Part::exit_draft, kDeeper);
  return costs_.ratio(Part::exit_draft, kFirst) + deeper + verify_time(drafted);
}

std::optional<Offer> GatedEstimator::offer(int64_t limit) {
  const int64_t depth = std::min(limit, gated_.max_depth());
  if (depth < 1) return std::nullopt;
  const LookAhead& ahead = gated_.ahead();
  const int state = gated_.state();
  const double overrun = std::max(1.0, taken_ / expected_ / costs_.plain_mean());
  const double time = std::max(1.0, ahead.time[state] * overrun);  // no drafted round is quicker than a plain one
  return Offer{{name(), depth}, ahead.tokens[state], time * kOverestimate};
}

void GatedEstimator::observe(const Outcome& outcome) {
  const double expected = gated_.expected_time(outcome.drafted), fade = 1.0 - 1.0 / kMemoryRounds;
  const double longest = gated_.has_read_prompt() ? kMaxRound * expected : expected;
  expected_ = fade * expected_ + expected;
  taken_ = fade * taken_ + std::min(outcome.seconds() / costs_.unit_s(), longest);
  gated_.observe_verify(outcome.drafted, outcome.verify_s);
}

}  // namespace edgeinfer
