#include "controller.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace edgeinfer {
namespace {

constexpr double kMinSpeedup = 1.02;
constexpr double kMaxTrialTimeShare = 0.005;
constexpr double kMaxTrialLoss = 2.0;
constexpr double kMinTrialSpeedup = 0.4;
constexpr double kMaxOverrun = 2.0;
constexpr int64_t kRecheckMax = 64;
constexpr int64_t kRecheckOnDrift = 8;
constexpr double kDriftThreshold = 0.08;
constexpr double kQuestionS = 75e-6;
constexpr double kMaxQuestionShare = 0.005;
constexpr int64_t kQuestionsPerRestRound = 4;

enum class Decision { take, try_anyway, leave };

Decision decide(const Offer& offer, const TrialBudget& budget) {
  if (offer.speedup() >= kMinSpeedup) return Decision::take;
  return offer.speedup() > kMinTrialSpeedup && budget.affords(offer) ? Decision::try_anyway : Decision::leave;
}

}  // namespace

void TrialBudget::spend(double rounds) {
  spent += rounds;
  lost = std::max(lost, kMaxTrialTimeShare * spent - kMaxTrialLoss);
}

bool TrialBudget::affords(const Offer& offer) const {
  const double loss = std::max(0.0, offer.expected_time - offer.expected_tokens);
  return lost + loss <= kMaxTrialTimeShare * spent;
}

Arm Auto::choose(int64_t limit) {
  trial_.reset();
  if (limit < 1 || needs_plain()) return {};
  if (rest_) {
    --rest_;
    return {};
  }
  const std::optional<Offer> offer = best(std::min(limit, costs_.max_rows() - 1));
  const Decision decision = offer ? decide(*offer, budget_) : Decision::leave;
  if (decision == Decision::leave) {
    const auto longest = static_cast<int64_t>(kQuestionS / (kMaxQuestionShare * costs_.unit_s()));
    rest_ = std::min(++declined_ / kQuestionsPerRestRound, longest);
    return {};
  }
  declined_ = 0;
  if (decision == Decision::try_anyway) trial_ = offer;
  return offer->arm;
}

void Auto::observe(const Arm& arm, const Outcome& outcome) {
  const double rounds = outcome.seconds() / costs_.unit_s();
  budget_.spend(rounds);
  if (!arm.depth) {
    if (since_plain_ >= recheck_after_) recheck_after_ = std::min(2 * recheck_after_, kRecheckMax);
    since_plain_ = 0;
    costs_.observe_plain(outcome.seconds());
    return;
  }
  ++since_plain_;
  if (trial_) {
    const double time = std::min(rounds, kMaxOverrun * trial_->expected_time);
    budget_.lost += std::max(0.0, time - static_cast<double>(outcome.emitted));
  }
  for (auto& estimator : estimators_)
    if (estimator->name() == arm.name) estimator->observe(outcome);
}

bool Auto::needs_plain() const {
  const bool drifted = since_plain_ >= kRecheckOnDrift && std::fabs(costs_.drift()) > kDriftThreshold;
  return drifted || since_plain_ >= recheck_after_;
}

std::optional<Offer> Auto::best(int64_t limit) {
  std::optional<Offer> found;
  for (auto& estimator : estimators_) {
    std::optional<Offer> offer = estimator->offer(limit);
    if (offer && (!found || offer->speedup() > found->speedup())) found = std::move(offer);
  }
  return found;
}

}  // namespace edgeinfer
