"""What the gate has learned from drafts: how often each confidence is right, and which confidence follows which."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeinfer.types import Logits

# Probability of the drafted token, by the drafter's own softmax. Below the first edge is bucket 0.
BUCKET_EDGES: Final = (0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
N_BUCKETS: Final = len(BUCKET_EDGES) + 1
UNKNOWN: Final = N_BUCKETS  # the state after a round without drafts
MISSED: Final = N_BUCKETS + 1  # the state after a rejected draft
N_STATES: Final = N_BUCKETS + 2

# A well-calibrated drafter is accepted as often as it is confident, so each prior is about the middle of its bucket.
# Four accepted or rejected drafts weigh as much as the prior. No report set these values; replayed on recorded answers,
# half or twice as much made no difference.
PRIOR_ACCEPTANCE: Final = (0.1, 0.25, 0.4, 0.55, 0.68, 0.78, 0.87, 0.94, 0.97, 0.985, 0.995)
PRIOR_WEIGHT: Final = 4.0
MEMORY_TOKENS: Final = 200.0
KEPT_IN_NEW_ANSWER: Final = 0.5  # of what follows what: the next answer may be easier or harder
MAX_TILT: Final = 50.0  # of the prior of what follows: means from 0.12 to 0.98 can be reached


def confidence(row: Logits, token: int) -> float:
    """Softmax probability of `token`. row: [V] float32."""
    import numpy as np

    top = row.max()
    return float(np.exp(row[token] - top) / np.exp(row - top).sum())


def bucket(probability: float) -> int:
    return sum(edge <= probability for edge in BUCKET_EDGES)


class Gate:
    """Acceptance rate of each confidence bucket, and which bucket follows which state: a bucket, UNKNOWN or MISSED."""

    def __init__(self, agreement: float | None = None) -> None:
        """`agreement` is the share of the drafter's drafts that are known to be right, from 0 to 1."""
        self._accepted = [rate * PRIOR_WEIGHT for rate in PRIOR_ACCEPTANCE]
        self._tries = [PRIOR_WEIGHT] * N_BUCKETS
        # Prior: every bucket may follow, and the same bucket gets the weight of two more.
        shares = [1.0] * N_BUCKETS if agreement is None else _tilted(PRIOR_ACCEPTANCE, agreement)
        self._prior = [
            [share + 2.0 * (state == after) for after, share in enumerate(shares)] for state in range(N_STATES)
        ]
        self._next = [[*counts] for counts in self._prior]

    def begin_answer(self) -> None:
        for counts, priors in zip(self._next, self._prior, strict=True):
            counts[:] = [
                prior + KEPT_IN_NEW_ANSWER * (count - prior) for count, prior in zip(counts, priors, strict=True)
            ]

    def acceptance(self, state: int) -> float:
        """Probability that a draft of this bucket is accepted, given that those before it were."""
        return self._accepted[state] / self._tries[state]

    def following(self, state: int) -> list[float]:
        """Probability of each bucket for the draft after `state`."""
        counts = self._next[state]
        total = sum(counts)
        return [count / total for count in counts]

    def learn(self, state: int, accepted: bool) -> None:
        if self._tries[state] >= MEMORY_TOKENS:
            self._accepted[state] *= 1 - 1 / MEMORY_TOKENS
            self._tries[state] *= 1 - 1 / MEMORY_TOKENS
        self._accepted[state] += accepted
        self._tries[state] += 1.0

    def learn_transition(self, before: int, after: int) -> None:
        """The draft after one of state `before` was of bucket `after`."""
        counts = self._next[before]
        total = sum(counts)
        if total >= MEMORY_TOKENS:
            self._next[before] = counts = [count * (1 - 1 / MEMORY_TOKENS) for count in counts]
        counts[after] += 1.0


def _tilted(rates: Sequence[float], mean: float) -> list[float]:
    """Weights that sum to the number of `rates` and give them this mean, as near to equal ones as that allows."""
    low, high = -MAX_TILT, MAX_TILT
    weights = [1.0] * len(rates)
    for _ in range(40):
        tilt = (low + high) / 2
        weights = [exp(tilt * rate) for rate in rates]
        found = sum(weight * rate for weight, rate in zip(weights, rates, strict=True)) / sum(weights)
        low, high = (tilt, high) if found < mean else (low, tilt)
    return [weight * len(rates) / sum(weights) for weight in weights]
