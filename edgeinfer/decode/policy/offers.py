"""What a drafter offers for the next round: expected tokens for expected time."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgeinfer.decode.policy.arms import Arm, Outcome


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
