"""The most that drafting could have won, on the very tokens that were measured and with this machine's row costs.

A perfect gate drafts exactly the tokens that will be accepted, and only where that is the fastest way to the end of
the answer. Its time is found by dynamic programming from the last token back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgeinfer.bench.speculation.measure import MAX_ROWS
from edgeinfer.bench.speculation.report import exit_round_s
from edgeinfer.decode.drafters.lookup import Lookup
from edgeinfer.decode.policy.costs import RowCosts, interpolate

MAX_DRAFTS: Final = 8


@dataclass(frozen=True, slots=True)
class Reach:
    """At each token of an answer but the first: how many of the tokens from there a drafter would get right."""

    lookup: tuple[int, ...]
    exit: tuple[int, ...]  # empty where the exit was not traced


def reach(prompt: Sequence[int], answer: Sequence[int], agreed: Sequence[bool]) -> Reach:
    lookup = Lookup()
    lookup.reset([*prompt, answer[0]])
    found: list[int] = []
    for at in range(1, len(answer)):
        match = lookup.match()
        drafts = lookup.tokens(match, MAX_ROWS - 1) if match else []
        found.append(_agreeing(drafts, answer[at:]))
        lookup.extend([answer[at]])
    runs: list[int] = []
    run = 0
    for good in reversed(agreed):
        run = run + 1 if good else 0
        runs.append(min(run, MAX_DRAFTS))
    return Reach(tuple(found), tuple(reversed(runs)))


def best_seconds(reach: Reach, costs: RowCosts, *, lookup: bool, early_exit: bool, max_rows: int) -> float:
    """Seconds for the answer's tokens except the first, with a perfect gate."""
    n = len(reach.lookup)
    seconds = [0.0] * (n + 1)
    for at in range(n - 1, -1, -1):
        best = costs.plain_s + seconds[at + 1]
        if lookup:
            for drafts in range(1, min(reach.lookup[at], n - at - 1, max_rows - 1) + 1):
                best = min(best, interpolate(costs.verify_s, drafts + 1) + seconds[at + drafts + 1])
        if early_exit and costs.back_short_s and reach.exit:
            for drafts in range(1, min(reach.exit[at], n - at - 1, max_rows - 1) + 1):
                best = min(best, exit_round_s(costs, drafts) + seconds[at + drafts + 1])
        seconds[at] = best
    return seconds[0]


def fixed_seconds(reach: Reach, costs: RowCosts, depth: int) -> float:
    """Seconds with always `depth` drafts by the exit, right or wrong."""
    at, n, total = 0, len(reach.exit), 0.0
    while at < n:
        drafts = min(depth, n - at - 1)
        total += exit_round_s(costs, drafts) if drafts else costs.plain_s
        at += min(reach.exit[at], drafts) + 1
    return total


def _agreeing(drafts: Sequence[int], truth: Sequence[int]) -> int:
    for index, (draft, token) in enumerate(zip(drafts, truth, strict=False)):
        if draft != token:
            return index
    return min(len(drafts), len(truth))
