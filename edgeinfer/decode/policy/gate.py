"""When to go on drafting with the early exit: only while it is sure, by a rate learned from its own hits and misses."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from edgeinfer.types import Logits

EDGES: Final = (0.15, 0.3, 0.45, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)  # of the drafted token's probability at the exit
COLD: Final = len(EDGES) + 1  # the state before the first draft of a round
_PRIOR_WEIGHT: Final = 4.0
_PRIOR: Final = (0.1, 0.25, 0.4, 0.55, 0.68, 0.78, 0.87, 0.94, 0.97, 0.985, 0.995)
_MEMORY: Final = 200.0  # tokens that a rate remembers


def confidence(row: Logits, token: int) -> float:
    """Softmax probability of `token`. row: [V] float32."""
    import numpy as np

    top = row.max()
    return float(np.exp(row[token] - top) / np.exp(row - top).sum())


def bucket(probability: float) -> int:
    return sum(edge <= probability for edge in EDGES)


class Gate:
    """Acceptance by how sure the exit was, and how sure it will be next. States are buckets, or COLD."""

    def __init__(self) -> None:
        n = len(EDGES) + 1
        self._hits = [rate * _PRIOR_WEIGHT for rate in _PRIOR]
        self._tries = [_PRIOR_WEIGHT] * n
        # a sure draft is mostly followed by a sure one; before the first draft nothing is known
        self._next = [[1.0 + 2.0 * (state == after) for after in range(n)] for state in range(n + 1)]

    def rate(self, state: int) -> float:
        """The chance that a draft of this bucket is accepted, given those before it."""
        return self._hits[state] / self._tries[state]

    def learn(self, state: int, accepted: bool) -> None:
        if self._tries[state] >= _MEMORY:
            self._hits[state] *= 1 - 1 / _MEMORY
            self._tries[state] *= 1 - 1 / _MEMORY
        self._hits[state] += accepted
        self._tries[state] += 1.0

    def saw(self, before: int, after: int) -> None:
        """The draft after one of state `before` was of bucket `after`."""
        counts = self._next[before]
        total = sum(counts)
        if total >= _MEMORY:
            self._next[before] = counts = [count * (1 - 1 / _MEMORY) for count in counts]
        counts[after] += 1.0

    def surplus(self, state: int, price: float) -> float:
        """Expected gain in tokens of one more draft after `state`: what it adds where that is more than `price`."""
        counts = self._next[state]
        gain = sum(count * max(0.0, self.rate(after) - price) for after, count in enumerate(counts))
        return gain / sum(counts)


def best_length(
    chances: Sequence[float], cost: Callable[[int], float], lengths: Container[int] = range(1 << 30)
) -> tuple[int, float, float]:
    """How many drafts, of `lengths`, give the most tokens per cost: (drafts, expected tokens, cost).

    `chances` are those of each draft given the ones before; `cost(n)` is that of a round of n drafts, 0 included.
    """
    tokens, reach = 1.0, 1.0
    best = (0, 1.0, cost(0))
    for n, chance in enumerate(chances, start=1):
        reach *= chance
        tokens += reach
        if n not in lengths:
            continue
        price = cost(n)
        if tokens * best[2] > best[1] * price:
            best = (n, tokens, price)
    return best


def worth_keeping(chances: Sequence[float], pace: float, cost: Callable[[int], float]) -> int:
    """How many of the drafts, already paid for, to verify: most expected tokens less `pace` times their cost."""
    tokens, reach = 1.0, 1.0
    best, best_value = 0, 1.0 - pace * cost(0)
    for n, chance in enumerate(chances, start=1):
        reach *= chance
        tokens += reach
        value = tokens - pace * cost(n)
        if value > best_value:
            best, best_value = n, value
    return best


def row_price(cost: Callable[[int], float], rows: int, most: int) -> float:
    """What the row after `rows` costs, where rows come cheaper in lots: the least average over those up to `most`."""
    now = cost(rows)
    return min((cost(more) - now) / (more - rows) for more in range(rows + 1, max(most, rows + 1) + 1))
