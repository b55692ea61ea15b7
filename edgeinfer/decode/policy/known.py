"""Drafts that are known before a round, and how conversations that share a step divide its rows among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

__all__ = ["KnownDrafts", "KnowsDrafts", "expected_tokens", "share_rows"]

DEPTHS: Final = (1, 3, 7)  # drafts, so that rows come in the tiles of kernels
MIN_SPEEDUP: Final = 1.15  # estimates are noisy: at 1.05 eight conversations were 3 % slower than without drafts


@dataclass(frozen=True, slots=True)
class KnownDrafts:
    """`acceptance` has the rate of each of `tokens`, given that those before it are accepted."""

    drafter: str
    tokens: Sequence[int]
    acceptance: Sequence[float]

    def first(self, n: int) -> KnownDrafts:
        return KnownDrafts(self.drafter, self.tokens[:n], self.acceptance[:n])


@runtime_checkable
class KnowsDrafts(Protocol):
    """A drafter that needs no forward to draft."""

    def known(self, limit: int) -> KnownDrafts | None:
        """At most `limit` drafts for what follows now."""
        ...


def expected_tokens(acceptance: Sequence[float], depth: int) -> float:
    """Expected tokens of a round with `depth` drafts; 1 if there are fewer drafts."""
    if len(acceptance) < depth:
        return 1.0
    tokens = reached = 1.0
    for rate in acceptance[:depth]:
        reached *= rate
        tokens += reached
    return tokens


def share_rows(acceptance: Sequence[Sequence[float]], forward_s: Callable[[int], float]) -> list[int]:
    """How many drafts each conversation verifies in the next step, for the most tokens per second of all together.

    `acceptance` has the rates of the known drafts of each. `forward_s(n)` is the time of a forward of `n` rows in all.
    Conversations with equally many rows share a forward. So those that draft draft equally many, and the others take a
    second forward.
    """
    n = len(acceptance)
    best, best_speed = [0] * n, MIN_SPEEDUP * n / forward_s(n)
    for depth in DEPTHS:
        tokens = [expected_tokens(rates, depth) for rates in acceptance]
        order = sorted(range(n), key=lambda index: -tokens[index])
        for n_drafting in range(1, n + 1):
            drafting, plain = order[:n_drafting], n - n_drafting
            if tokens[drafting[-1]] == 1.0:
                break
            seconds = forward_s(n_drafting * (depth + 1)) + (forward_s(plain) if plain else 0.0)
            speed = (sum(tokens[index] for index in drafting) + plain) / seconds
            if speed > best_speed:
                best, best_speed = [depth if index in drafting else 0 for index in range(n)], speed
    return best
