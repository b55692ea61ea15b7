"""Speed-ups with their uncertainty, from paired measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from typing import Final

# .975 quantiles of Student's t by degrees of freedom; 0 stands for a single prompt, the last for all above
_T: Final = (
    0.0, 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131,
    2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


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
    low: float  # 95 % interval
    high: float


def speedup(pairs: Sequence[Pair]) -> Speedup:
    """Pooled tokens per second with the arm, over pooled tokens per second without.

    Where the tokens are the same, this is the sum of seconds off over the sum of seconds on. The interval is the
    jackknife's for the logarithm of the ratio, one prompt left out at a time, with Student's t as prompts are few:
    percentiles of a bootstrap hold the truth of three prompts in 75 runs of 100. One prompt alone has no interval:
    both bounds equal the ratio. Raises ValueError without a pair.
    """
    if not pairs:
        raise ValueError("no measurement to compare")
    n, ratio = len(pairs), _ratio(pairs)
    if n == 1:
        return Speedup(ratio, ratio, ratio)
    without = [log(_ratio([*pairs[:index], *pairs[index + 1 :]])) for index in range(n)]
    middle = sum(without) / n
    error = sqrt((n - 1) / n * sum((value - middle) ** 2 for value in without))
    reach = exp(_student(n - 1) * error)
    return Speedup(ratio, ratio / reach, ratio * reach)


def _ratio(pairs: Sequence[Pair]) -> float:
    plain = sum(pair.plain_tokens for pair in pairs) / sum(pair.plain_s for pair in pairs)
    return sum(pair.tokens for pair in pairs) / sum(pair.seconds for pair in pairs) / plain


def _student(freedom: int) -> float:
    """The .975 quantile of Student's t."""
    return _T[min(freedom, len(_T) - 1)]


def spread(values: Sequence[float]) -> float:
    """Median distance from the median, relative to it: how much equal runs differ."""
    from statistics import median

    middle = median(values)
    return median(abs(value - middle) for value in values) / middle if middle else 0.0
