// Chooses the arm of a round: the offer with the most expected tokens per second, plain decoding included.
// edgeinfer/decode/policy/controller.py.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "costs.h"
#include "offers.h"

namespace edgeinfer {

// Time in plain rounds: the total, and the part that trials lost against plain decoding.
struct TrialBudget {
  double spent = 0.0;
  double lost = 0.0;

  // Time passes. The budget does not accumulate: a long fast phase must not pay for a long slow one.
  void spend(double rounds);
  bool affords(const Offer& offer) const;
};

class Auto : public Controller {
 public:
  Auto(std::vector<std::unique_ptr<Estimator>> estimators, Costs& costs)
      : estimators_(std::move(estimators)), costs_(costs) {}

  double plain_s() const override { return costs_.unit_s(); }
  Arm choose(int64_t limit) override;
  void observe(const Arm& arm, const Outcome& outcome) override;

 private:
  bool needs_plain() const;
  std::optional<Offer> best(int64_t limit);

  std::vector<std::unique_ptr<Estimator>> estimators_;
  Costs& costs_;
  TrialBudget budget_;
  std::optional<Offer> trial_;  // the losing offer that the running round tries
  int64_t since_plain_ = 0;
  int64_t recheck_after_ = 2;
  int64_t declined_ = 0;  // offers declined in a row
  int64_t rest_ = 0;      // rounds before drafters are asked again
};

}  // namespace edgeinfer
