"""Fits the rates of two hidden states to sequences of matches: a hidden Markov model, by the Baum-Welch algorithm.

L. R. Rabiner, "A tutorial on hidden Markov models", 1989, sections III and V. The states are not labeled: a token of an
answer belongs to a state as far as the matches before and after it say so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Final, NamedTuple, TypeAlias

from edgeinfer.decode.drafters.hit_rates import MAX_RATE, MIN_RATE

ITERATIONS: Final = 40
PSEUDO_MATCHES: Final = 2.0  # added to each rate, with the rate of both states together

Rates: TypeAlias = list[list[float]]
"""Rates by row (class of match length), then by fork."""

Pair: TypeAlias = tuple[float, float]
"""A number for each state: new text, copying."""


class Seen(NamedTuple):
    """A match, and whether the next token was the expected one."""

    row: int
    fork: int
    hit: bool


@dataclass(frozen=True, slots=True)
class TwoStates:
    new_text: Rates
    copying: Rates
    start: Pair = (0.8, 0.2)
    stay: Pair = (0.98, 0.98)  # probability that the next match is in the same state

    def likelihood(self, seen: Seen) -> Pair:
        new, copying = self.new_text[seen.row][seen.fork], self.copying[seen.row][seen.fork]
        return (new, copying) if seen.hit else (1 - new, 1 - copying)


class _Counts:
    """Expected matches, hits, first states and changes of state."""

    def __init__(self, n_rows: int, n_forks: int) -> None:
        self.matches = [[[0.0, 0.0] for _ in range(n_forks)] for _ in range(n_rows)]
        self.hits = [[[0.0, 0.0] for _ in range(n_forks)] for _ in range(n_rows)]
        self.first = [1e-9, 1e-9]
        self.stayed, self.left = [1e-9, 1e-9], [1e-9, 1e-9]


def fit(answers: Sequence[Sequence[Seen]], states: TwoStates, iterations: int = ITERATIONS) -> TwoStates:
    """The states that explain the matches of `answers` best, found from `states`."""
    for _ in range(iterations):
        counts = _Counts(len(states.new_text), len(states.new_text[0]))
        for answer in answers:
            if answer:
                _count(answer, states, counts)
        states = _states_from(counts)
    return states


def log_loss(answers: Sequence[Sequence[Seen]], states: TwoStates) -> float:
    """Mean negative log likelihood of a match, given those before it."""
    scales = [scale for answer in answers if answer for _, scale in _forward(answer, states)]
    return -sum(map(log, scales)) / len(scales)


def _forward(answer: Sequence[Seen], states: TwoStates) -> list[tuple[Pair, float]]:
    """Probability of each state after each match, and the likelihood of that match given those before it."""
    (stay_new, stay_copying), prior = states.stay, states.start
    found = []
    for seen in answer:
        new, copying = (p * likelihood for p, likelihood in zip(prior, states.likelihood(seen), strict=True))
        scale = new + copying
        new, copying = new / scale, copying / scale
        found.append(((new, copying), scale))
        prior = (new * stay_new + copying * (1 - stay_copying), copying * stay_copying + new * (1 - stay_new))
    return found


def _count(answer: Sequence[Seen], states: TwoStates, counts: _Counts) -> None:
    forward = _forward(answer, states)
    after = (1.0, 1.0)  # likelihood of the later matches for each state, scaled
    for at in range(len(answer) - 1, -1, -1):
        seen, (probability, scale) = answer[at], forward[at]
        weights = [p * a for p, a in zip(probability, after, strict=True)]
        for state, weight in enumerate(weights):
            counts.matches[seen.row][seen.fork][state] += weight / sum(weights)
            counts.hits[seen.row][seen.fork][state] += seen.hit * weight / sum(weights)
            if at == 0:
                counts.first[state] += weight / sum(weights)
        if at:
            reached = [a * b / scale for a, b in zip(after, states.likelihood(seen), strict=True)]
            before = forward[at - 1][0]
            for state, stay in enumerate(states.stay):
                counts.stayed[state] += before[state] * stay * reached[state]
                counts.left[state] += before[state] * (1 - stay) * reached[1 - state]
            stay_new, stay_copying = states.stay
            new, copying = reached
            after = (new * stay_new + copying * (1 - stay_new), copying * stay_copying + new * (1 - stay_copying))


def _states_from(counts: _Counts) -> TwoStates:
    new_text, copying = (
        [_falling(*_smoothed(matches, hits, state)) for matches, hits in zip(counts.matches, counts.hits, strict=True)]
        for state in (0, 1)
    )
    stay = [stayed / (stayed + left) for stayed, left in zip(counts.stayed, counts.left, strict=True)]
    first = counts.first[0] / sum(counts.first)
    return TwoStates(new_text, copying, (first, 1 - first), (stay[0], stay[1]))


def _smoothed(
    matches: Sequence[list[float]], hits: Sequence[list[float]], state: int
) -> tuple[list[float], list[float]]:
    """Rates of one row by fork, and the matches that each was counted on."""
    rates = []
    for n, n_hits in zip(matches, hits, strict=True):
        both = (sum(n_hits) + 1) / (sum(n) + 2)
        rate = (n_hits[state] + PSEUDO_MATCHES * both) / (n[state] + PSEUDO_MATCHES)
        rates.append(min(max(rate, MIN_RATE), MAX_RATE))
    return rates, [n[state] for n in matches]


def _falling(rates: list[float], weights: list[float]) -> list[float]:
    """A fork makes no match more likely to come true: where rates rise, neighbors take their common mean."""
    pools: list[tuple[float, float, int]] = []
    for rate, weight in zip(rates, weights, strict=True):
        pool = (rate, weight + 1e-9, 1)
        while pools and pools[-1][0] < pool[0]:
            (left, left_weight, n_left), (right, right_weight, n_right) = pools.pop(), pool
            total = left_weight + right_weight
            pool = ((left * left_weight + right * right_weight) / total, total, n_left + n_right)
        pools.append(pool)
    return [rate for rate, _, n in pools for _ in range(n)]
