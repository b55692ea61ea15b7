#include "gated.h"

#include <algorithm>

namespace edgeinfer {
namespace {

// Before the first round: how often the first draft is sure enough to be verified, and its acceptance rate then.
constexpr double kPriorVerified = 0.45;
constexpr double kPriorAcceptance = 0.97;
constexpr double kPriorRounds = 4.0;
constexpr double kMaxOverrun = 1.5;  // a round that takes longer than this times its parts was interrupted
constexpr double kMemoryRounds = 24.0;

// Groups of states that predict the next draft alike: unsure, medium, sure, unknown.
size_t similar(int state) {
  if (state == kUnknown) return 3;
  return state < 4 ? 0 : state < 7 ? 1 : 2;
}

}  // namespace

void Gated::reset(const Tokens& context) {
  last_ = context.back();
  drafts_.clear();
  states_.clear();
}

void Gated::extend(const Tokens& tokens) {
  for (size_t i = 0; i < std::min(drafts_.size(), tokens.size()); ++i) {  // ends at the first miss
    const bool hit = drafts_[i] == tokens[i];
    gate_.learn(states_[i], hit);
    if (!hit) state_ = kUnknown;
  }
  drafts_.clear();
  states_.clear();
  last_ = tokens.back();
}

Tokens Gated::propose(DraftRound& round, int64_t limit) {
  drafts_.clear();
  states_.clear();
  int32_t token = last_;
  int state = state_;
  double reached = 1.0;
  const auto short_time = [&](int64_t rows) { return costs_.ratio(Part::back_short, rows); };
  while (static_cast<int64_t>(drafts_.size()) < limit) {
    const int64_t rows = static_cast<int64_t>(drafts_.size()) + 1;
    const double row_price = tokens_per_time_ * marginal_row_time(short_time, rows, limit + 1);
    const double draft_price = tokens_per_time_ * costs_.ratio(Part::exit_draft);
    if (!drafts_.empty() && reached * gate_.expected_gain(state, row_price / reached) < draft_price) break;
    int after = 0;
    token = draft(round, token, after);
    gate_.learn_transition(state, after);
    state = after;
    reached *= gate_.acceptance(state);
    drafts_.push_back(token);
    states_.push_back(state);
  }
  state_ = state;
  n_drafts_ = static_cast<int64_t>(drafts_.size());
  std::vector<double> acceptance;
  for (const int each : states_) acceptance.push_back(gate_.acceptance(each));
  const int64_t n = n_worth_verifying(acceptance, tokens_per_time_, [&](int64_t rows) { return verify_time(rows); });
  return Tokens(drafts_.begin(), drafts_.begin() + n);
}

int32_t Gated::draft(DraftRound& round, int32_t token, int& state) {
  const double began = clock_();
  const Row row = round.draft(token);
  state = bucket(confidence(row.logits, n_vocab_, row.token));
  costs_.observe(Part::exit_draft, 1, clock_() - began);
  return row.token;
}

void Gated::observe_verify(int64_t drafted, double seconds) {
  costs_.observe(verify_part(drafted), drafted + 1, seconds);
}

double Gated::expected_time(int64_t drafted) const {
  return static_cast<double>(n_drafts_) * costs_.ratio(Part::exit_draft) + verify_time(drafted);
}

double Gated::expected_time_of_one(double p_verified) const {
  const double verify =
      p_verified * costs_.ratio(Part::back_short, 2) + (1.0 - p_verified) * costs_.ratio(Part::back, 1);
  return costs_.ratio(Part::exit_draft) + verify;
}

void GatedEstimator::Mean::add(double new_tokens, double new_time) {
  rounds = std::min(rounds + 1.0, kMemoryRounds);
  tokens += (new_tokens - tokens) / rounds;
  time += (new_time - time) / rounds;
}

GatedEstimator::GatedEstimator(Gated& gated, Costs& costs)
    : gated_(gated),
      costs_(costs),
      max_depth_(std::min(kMaxDrafts, costs.max_rows() - 1)),
      all_{1.0 + kPriorVerified * kPriorAcceptance, gated.expected_time_of_one(kPriorVerified), kPriorRounds},
      group_(similar(kUnknown)) {}

std::optional<Offer> GatedEstimator::offer(int64_t limit) {
  const int64_t depth = std::min(limit, max_depth_);
  if (offer_ && offer_->arm.depth == depth) return offer_;
  if (depth < 1) return std::nullopt;
  group_ = similar(gated_.state());
  const Mean& own = means_[group_];
  const double total = own.rounds + kPriorRounds;
  const double tokens = (own.tokens * own.rounds + all_.tokens * kPriorRounds) / total;
  const double time = (own.time * own.rounds + all_.time * kPriorRounds) / total;
  offer_ = Offer{{name(), depth}, tokens, time};
  return offer_;
}

void GatedEstimator::observe(const Outcome& outcome) {
  const double longest = kMaxOverrun * gated_.expected_time(outcome.drafted);
  const double time = std::min(outcome.seconds() / costs_.unit_s(), longest);
  const double emitted = static_cast<double>(outcome.emitted);
  means_[group_].add(emitted, time);
  all_.add(emitted, time);
  gated_.set_tokens_per_time(std::max(1.0, all_.tokens / all_.time));
  gated_.observe_verify(outcome.drafted, outcome.verify_s);
  offer_.reset();
}

}  // namespace edgeinfer
