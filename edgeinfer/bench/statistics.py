"""Speed-ups with their uncertainty, from paired measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Pair:
    """One prompt, decoded plainly and with an arm. Tokens exclude the first one, which the prefill makes."""

    plain_tokens: int
    plain_s: float
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Speedup:
    ratio: float
    low: float  # 95 % interval, percentiles of the bootstrap
    high: float


def speedup(pairs: Sequence[Pair], *, seed: int = 0) -> Speedup:
    """Pooled tokens per second with the arm, over pooled tokens per second without; prompts are resampled in pairs.

    Where the tokens are the same, this is the sum of seconds off over the sum of seconds on.
    Raises ValueError without a pair.
    """
    import numpy as np

    if not pairs:
        raise ValueError("no measurement to compare")
    table = np.array([(p.plain_tokens, p.plain_s, p.tokens, p.seconds) for p in pairs], dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(pairs), size=(RESAMPLES, len(pairs)))
    sums = table[drawn].sum(axis=1)  # [resamples, 4]
    ratios = (sums[:, 2] / sums[:, 3]) / (sums[:, 0] / sums[:, 1])
    total = table.sum(axis=0)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return Speedup(float((total[2] / total[3]) / (total[0] / total[1])), float(low), float(high))


def spread(values: Sequence[float]) -> float:
    """Median distance from the median, relative to it: how much equal runs differ."""
    from statistics import median

    middle = median(values)
    return median(abs(value - middle) for value in values) / middle if middle else 0.0
