"""The most that drafting could have won, on the very tokens that were measured and with this machine's row costs.

A perfect gate drafts exactly the tokens that will be accepted, and only where that is the fastest way to the end of
the answer. Its time is found by dynamic programming from the last token back. The best fixed gate sees only what the
drafters know themselves: it takes lookup where lookup's own rates promise enough, and drafts by the exit while the
exit's own probability is high enough. Its two limits are the best ones for these answers. Neither costs any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Final

from benchmarks.speculation.trace import Chain
from edgeinfer.bench.speculation.measure import MAX_ROWS
from edgeinfer.bench.speculation.report import exit_round_s
from edgeinfer.decode.drafters.lookup import Lookup, LookupEstimator
from edgeinfer.decode.policy.costs import RowCosts, interpolate
from edgeinfer.decode.policy.offers import best_length

NEVER: Final = float("inf")
LEAST_PROMISED: Final = (1.0, 1.05, 1.1, 1.2, 1.4, NEVER)  # speed-up of a round, by lookup's own rates
LEAST_SURE: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, NEVER)  # probability of a draft, by the exit itself


@dataclass(frozen=True, slots=True)
class Reach:
    """At each token of an answer but the first: how many of the tokens from there a drafter would get right, and how
    sure it is of each of its drafts."""

    lookup: tuple[int, ...]
    exit: tuple[int, ...]  # empty where the exit was not traced
    lookup_rates: tuple[tuple[float, ...], ...] = ()
    exit_sure: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class FixedGate:
    least_promised: float
    least_sure: float


def reach(prompt: Sequence[int], answer: Sequence[int], chains: Sequence[Chain]) -> Reach:
    """`chains` has the exit's drafts after each token of the answer but the last; none where it was not traced."""
    lookup = Lookup()
    lookup.reset([*prompt, answer[0]])
    found: list[int] = []
    rates: list[tuple[float, ...]] = []
    for at in range(1, len(answer)):
        match = lookup.match()
        drafts = lookup.tokens(match, MAX_ROWS - 1) if match else []
        found.append(_agreeing(drafts, answer[at:]))
        rates.append(tuple(lookup.acceptance(match, MAX_ROWS - 1)) if match else ())
        lookup.extend([answer[at]])
    return Reach(
        tuple(found),
        tuple(_agreeing([token for token, _ in chain], answer[at:]) for at, chain in enumerate(chains, start=1)),
        tuple(rates),
        tuple(tuple(sure for _, sure in chain) for chain in chains),
    )


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


def best_gate(
    reaches: Sequence[Reach], costs: RowCosts, *, lookup: bool, early_exit: bool, max_rows: int
) -> tuple[FixedGate, float]:
    """The gate that takes the fewest seconds for all answers together, and these seconds."""
    promised = LEAST_PROMISED if lookup else (NEVER,)
    sure = LEAST_SURE if early_exit and costs.back_short_s else (NEVER,)
    gates = [FixedGate(*limits) for limits in product(promised, sure)]
    seconds = [sum(gated_seconds(one, costs, gate, max_rows) for one in reaches) for gate in gates]
    least = min(range(len(gates)), key=seconds.__getitem__)
    return gates[least], seconds[least]


def gated_seconds(reach: Reach, costs: RowCosts, gate: FixedGate, max_rows: int) -> float:
    """Seconds for the answer's tokens except the first, with this gate."""
    at, n, total = 0, len(reach.lookup), 0.0
    round_time = partial(_lookup_time, costs)
    while at < n:
        limit = min(n - at, max_rows) - 1
        drafts, right, seconds = _by_lookup(reach, at, limit, gate, round_time, costs)
        if not drafts:
            right, seconds = _by_exit(reach, at, limit, gate, costs)
        total += seconds
        at += right + 1
    return total


def _lookup_time(costs: RowCosts, drafts: int) -> float:
    return interpolate(costs.verify_s, drafts + 1) / costs.plain_s


def _by_lookup(
    reach: Reach, at: int, limit: int, gate: FixedGate, time: Callable[[int], float], costs: RowCosts
) -> tuple[int, int, float]:
    """Drafts, how many of them are right, and seconds."""
    if gate.least_promised == NEVER:
        return 0, 0, 0.0
    drafts, tokens, rounds = best_length(reach.lookup_rates[at][:limit], time, LookupEstimator.LENGTHS)
    if tokens / rounds < gate.least_promised:
        return 0, 0, 0.0
    return drafts, min(reach.lookup[at], drafts), rounds * costs.plain_s


def _by_exit(reach: Reach, at: int, limit: int, gate: FixedGate, costs: RowCosts) -> tuple[int, float]:
    """How many drafts are right, and seconds. The first unsure draft is made and dropped."""
    if gate.least_sure == NEVER or limit < 1:
        return 0, costs.plain_s
    made = kept = 0
    for sure in reach.exit_sure[at][:limit]:
        made += 1
        if sure < gate.least_sure:
            break
        kept += 1
    return min(reach.exit[at], kept), exit_round_s(costs, made, kept)


def _agreeing(drafts: Sequence[int], truth: Sequence[int]) -> int:
    for index, (draft, token) in enumerate(zip(drafts, truth, strict=False)):
        if draft != token:
            return index
    return min(len(drafts), len(truth))
