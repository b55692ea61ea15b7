"""Chooses the arm of a round: the offer with the most expected tokens per second, plain decoding included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from edgeinfer.decode.policy.arms import NONE, Arm, Outcome
from edgeinfer.decode.policy.costs import Costs
from edgeinfer.decode.policy.offers import Estimator, Offer

# Chosen on the simulated devices of tests/unit/test_controller.py; docs/speculation.md shows what they give on a real
# one. Trials let a losing drafter show that it has become better.
MIN_SPEEDUP: Final = 1.02  # estimates are noisy: a smaller gain over plain decoding is not taken
MAX_TRIAL_TIME_SHARE: Final = 0.005
MAX_TRIAL_LOSS: Final = 2.0  # plain rounds that trials may lose before they have earned their share
MIN_TRIAL_SPEEDUP: Final = 0.4
MAX_OVERRUN: Final = 2.0  # a trial that takes longer was interrupted, so the rest does not count as its loss

# Re-measure a plain round periodically, because all times are relative to it: after 2 drafted rounds, then 4, 8 ... up
# to 64; after 8 if the measured drift exceeds 8 %. Chosen on the same simulated devices.
RECHECK_FIRST: Final = 2
RECHECK_MAX: Final = 64
RECHECK_ON_DRIFT: Final = 8
DRIFT_THRESHOLD: Final = 0.08

# Asking for offers takes 50 to 100 us, most of it for tables that the weights have pushed out of the caches: 4 % of a
# round of 1.4 ms (docs/log.md). A question without an offer worth taking is followed by a rest. Every fourth such
# question makes the rest a round longer, until questions take this share of the time.
QUESTION_S: Final = 75e-6
MAX_QUESTION_SHARE: Final = 0.005
QUESTIONS_PER_REST_ROUND: Final = 4

Decision: TypeAlias = Literal["take", "try", "leave"]


@dataclass(slots=True)
class TrialBudget:
    """Time in plain rounds: all of it, and what trials lost against plain decoding."""

    spent: float = 0.0
    lost: float = 0.0

    def spend(self, rounds: float) -> None:
        """Time passes. The budget does not accumulate: a long fast phase must not pay for a long slow one."""
        self.spent += rounds
        self.lost = max(self.lost, MAX_TRIAL_TIME_SHARE * self.spent - MAX_TRIAL_LOSS)

    def affords(self, offer: Offer) -> bool:
        loss = max(0.0, offer.expected_time - offer.expected_tokens)
        return self.lost + loss <= MAX_TRIAL_TIME_SHARE * self.spent


def decide(offer: Offer, budget: TrialBudget) -> Decision:
    """Whether to take the best offer, and if it is slower than plain decoding, whether to try it anyway."""
    if offer.speedup >= MIN_SPEEDUP:
        return "take"
    return "try" if offer.speedup > MIN_TRIAL_SPEEDUP and budget.affords(offer) else "leave"


class Auto:
    """Chooses between plain decoding and the drafters' offers. The same observations give the same choices.

    This runs between rounds, when the CPU caches hold weights, so its cost is the memory it touches.
    """

    def __init__(self, estimators: Sequence[Estimator], costs: Costs) -> None:
        self._estimators = {estimator.name: estimator for estimator in estimators}
        self._costs = costs
        self._budget = TrialBudget()
        self._trial: Offer | None = None  # the losing offer that the running round tries
        self._since_plain = 0
        self._recheck_after = RECHECK_FIRST
        self._declined = 0  # questions since an offer was taken
        self._rest = 0  # rounds left without a question

    @property
    def plain_s(self) -> float:
        return self._costs.unit_s

    def choose(self, limit: int) -> Arm:
        self._trial = None
        if limit < 1 or self._needs_plain():
            return NONE
        if self._rest:
            self._rest -= 1
            return NONE
        offer = self._best(min(limit, self._costs.max_rows - 1))
        decision = decide(offer, self._budget) if offer else "leave"
        if offer is None or decision == "leave":
            self._declined += 1
            longest = int(QUESTION_S / (MAX_QUESTION_SHARE * self._costs.unit_s))
            self._rest = min(self._declined // QUESTIONS_PER_REST_ROUND, longest)
            return NONE
        self._declined = 0
        if decision == "try":
            self._trial = offer
        return offer.arm

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        rounds = outcome.seconds / self._costs.unit_s
        self._budget.spend(rounds)
        if not arm.depth:
            if self._since_plain >= self._recheck_after:
                self._recheck_after = min(2 * self._recheck_after, RECHECK_MAX)
            self._since_plain = 0
            self._costs.observe_plain(outcome.seconds)
            return
        self._since_plain += 1
        if self._trial:
            time = min(rounds, MAX_OVERRUN * self._trial.expected_time)
            self._budget.lost += max(0.0, time - outcome.emitted)
        self._estimators[arm.name].observe(outcome)

    def _needs_plain(self) -> bool:
        drifted = self._since_plain >= RECHECK_ON_DRIFT and abs(self._costs.drift) > DRIFT_THRESHOLD
        return drifted or self._since_plain >= self._recheck_after

    def _best(self, limit: int) -> Offer | None:
        best: Offer | None = None
        for estimator in self._estimators.values():
            offer = estimator.offer(limit)
            if offer is not None and (best is None or offer.speedup > best.speedup):
                best = offer
        return best
