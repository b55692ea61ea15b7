"""What a draft is worth on a device: agreement by depth and measured row costs make an expected speed-up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Expected", "best_depth", "expected_speedup"]


@dataclass(frozen=True, slots=True)
class Expected:
    """`speedup` over plain decoding with `depth` drafts a round; 1.0 and 0 where no depth pays."""

    speedup: float
    depth: int


def expected_speedup(
    agreement: Sequence[float], depth: int, row_cost: Callable[[int], float], draft_cost: float
) -> float:
    """Tokens of a round over its time, a plain round being 1 token and 1 unit of time.

    `agreement[d]` is the chance of draft d + 1 after right ones, `row_cost(n)` the time to verify n rows.
    """
    tokens, reached = 1.0, 1.0
    for chance in agreement[:depth]:
        reached *= chance
        tokens += reached
    return tokens / (row_cost(depth + 1) + depth * draft_cost)


def best_depth(agreement: Sequence[float], row_cost: Callable[[int], float], draft_cost: float) -> Expected:
    """The best fixed depth, without a gate and without prompt lookup: what a draft brings by itself, at least."""
    found = [
        Expected(expected_speedup(agreement, depth, row_cost, draft_cost), depth)
        for depth in range(1, len(agreement) + 1)
    ]
    best = max(found, key=lambda one: one.speedup, default=Expected(1.0, 0))
    return best if best.speedup > 1.0 else Expected(1.0, 0)
