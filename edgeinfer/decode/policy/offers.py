"""What a drafter offers for the next round: expected tokens for expected time."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from edgeinfer.decode.policy.arms import Arm, Outcome

# Winner's curse: the best of several noisy estimates is biased upwards, so drafters state more time than they expect.
OVERESTIMATE: Final = 1.05


@dataclass(frozen=True, slots=True)
class Offer:
    """Time is in plain rounds. A plain round is one token for one."""

    arm: Arm
    expected_tokens: float
    expected_time: float

    @property
    def speedup(self) -> float:
        return self.expected_tokens / self.expected_time


class Estimator(Protocol):
    """Estimates the rounds of one drafter from what it has learned in this conversation."""

    name: str  # of the drafter

    def offer(self, limit: int) -> Offer | None:
        """The best offer with at most `limit` drafts; None when there is nothing to draft."""
        ...

    def observe(self, outcome: Outcome) -> None:
        """Learn from a round of this drafter."""
        ...


def best_length(
    acceptance: Sequence[float], time: Callable[[int], float], lengths: Container[int] = range(1 << 30)
) -> tuple[int, float, float]:
    """The number of drafts, out of `lengths` or 0, with the most tokens per time: (drafts, expected tokens, time).

    `acceptance` [n] is the acceptance rate of each draft, given that those before it were accepted. `time(n)` is the
    time of a round with n drafts.
    """
    tokens, reached = 1.0, 1.0
    best = (0, 1.0, time(0))
    for n, rate in enumerate(acceptance, start=1):
        reached *= rate
        tokens += reached
        if n in lengths and tokens * best[2] > best[1] * (needed := time(n)):
            best = (n, tokens, needed)
    return best


def n_worth_verifying(acceptance: Sequence[float], tokens_per_time: float, time: Callable[[int], float]) -> int:
    """How many of the drafts to verify: the number with the most expected tokens after paying `tokens_per_time` for the
    time of the verify."""
    tokens, reached = 1.0, 1.0
    best, best_value = 0, 1.0 - tokens_per_time * time(0)
    for n, rate in enumerate(acceptance, start=1):
        reached *= rate
        tokens += reached
        value = tokens - tokens_per_time * time(n)
        if value > best_value:
            best, best_value = n, value
    return best
