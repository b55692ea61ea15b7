"""What each drafter offers for the next round: so many tokens for so much time, from what it learned so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from edgeinfer.decode.drafters.gated import Gated
from edgeinfer.decode.drafters.lookup import Lookup
from edgeinfer.decode.policy.arms import Arm, Outcome
from edgeinfer.decode.policy.costs import Costs, Part
from edgeinfer.decode.policy.gate import COLD, best_length
from edgeinfer.types import Tokens


@dataclass(frozen=True, slots=True)
class Bid:
    """`tokens` expected for `cost`, in plain rounds. A plain round is one token for one."""

    arm: Arm
    tokens: float
    cost: float

    @property
    def pace(self) -> float:
        return self.tokens / self.cost


class Bidder(Protocol):
    name: str

    def bid(self, context: Tokens, limit: int) -> Bid | None:
        """The best offer with at most `limit` drafts; None when it has nothing to draft."""
        ...

    def settle(self, arm: Arm, outcome: Outcome) -> None:
        """Learn from a round that this bidder had."""
        ...


class LookupBids:
    """Lookup knows its drafts before the round, so it bids for these very tokens."""

    name = "lookup"
    _DOUBT: Final = 1.05  # of several lengths the one that looks best mostly looks better than it is
    # A few even counts of rows: kernels take them in lots, and an engine reuses the graph of as many rows as before.
    _LENGTHS: Final = frozenset({1, 3, 5, 7, 11, 15})

    def __init__(self, lookup: Lookup, costs: Costs) -> None:
        self._lookup = lookup
        self._costs = costs
        self._lengths = self._LENGTHS | {costs.max_rows - 1}

    def bid(self, context: Tokens, limit: int) -> Bid | None:
        match = self._lookup.match(context)
        if match is None or limit < 1:
            return None
        chances = self._lookup.chances(match, limit)
        n, tokens, cost = best_length(chances, self._cost, self._lengths)
        if not n and not self._costs.is_known("verify", 2):  # it loses, but by a cost that nobody has seen yet
            n, tokens, cost = 1, 1.0 + chances[0], self._cost(1)
        return Bid(Arm(self.name, n), tokens, cost) if n else None

    def settle(self, arm: Arm, outcome: Outcome) -> None:
        del arm
        self._costs.observe("verify", outcome.drafted + 1, outcome.draft_s + outcome.verify_s)

    def _cost(self, n: int) -> float:
        return self._costs.ratio("verify", n + 1) * self._DOUBT if n else 1.0


class _Mean:
    """Tokens and cost of a round, as running means."""

    __slots__ = ("cost", "rounds", "tokens")
    MEMORY: Final = 24.0

    def __init__(self, tokens: float, cost: float, rounds: float) -> None:
        self.tokens, self.cost, self.rounds = tokens, cost, rounds

    def add(self, tokens: float, cost: float) -> None:
        self.rounds = min(self.rounds + 1.0, self.MEMORY)
        self.tokens += (tokens - self.tokens) / self.rounds
        self.cost += (cost - self.cost) / self.rounds


class GatedBids:
    """A gated drafter decides its depth inside the round; its bid is what such rounds gave from a like state, and as
    long as few were seen, what all of them gave: a drafter that loses in one state is not tried anew in each."""

    _SURE: Final = 0.45  # before anything is seen: how often the first draft is sure
    _HIT: Final = 0.97  # and how often a sure one is accepted
    _PRIOR_ROUNDS: Final = 4.0
    _HELD_UP: Final = 1.5  # a round that takes longer than so many times its parts was held up by something else

    def __init__(self, gated: Gated, costs: Costs, *, max_depth: int) -> None:
        self.name = gated.name
        self._gated = gated
        self._costs = costs
        self._max_depth = max_depth
        tokens = 1.0 + self._SURE * self._HIT
        cost = gated.cost_of_one(sure=self._SURE)
        self._means = [_Mean(0.0, 0.0, 0.0) for _ in range(4)]
        self._all = _Mean(tokens, cost, self._PRIOR_ROUNDS)
        self._state = 3
        self._offer: Bid | None = None  # stands until a round of this drafter

    def bid(self, context: Tokens, limit: int) -> Bid | None:
        del context
        depth = min(limit, self._max_depth)
        if self._offer is not None and self._offer.arm.depth == depth:
            return self._offer
        if depth < 1:
            return None
        self._state = _likeness(self._gated.state)
        own, every, n = self._means[self._state], self._all, self._PRIOR_ROUNDS
        seen = own.rounds + n
        tokens, cost = (
            (own.tokens * own.rounds + every.tokens * n) / seen,
            (own.cost * own.rounds + every.cost * n) / seen,
        )
        self._offer = Bid(Arm(self.name, depth), tokens, cost)
        return self._offer

    def settle(self, arm: Arm, outcome: Outcome) -> None:
        del arm
        seconds = outcome.draft_s + outcome.verify_s
        cost = min(seconds / self._costs.unit_s, self._HELD_UP * self._gated.cost_of(outcome.drafted))
        self._means[self._state].add(outcome.emitted, cost)
        self._all.add(outcome.emitted, cost)
        self._gated.pace = max(1.0, self._all.tokens / self._all.cost)
        self._gated.settle(outcome.drafted, outcome.verify_s)
        self._offer = None


def _likeness(state: int) -> int:
    """States that say alike how sure the next draft will be: unsure, middling, sure, unknown."""
    if state == COLD:
        return 3
    return 0 if state < 4 else 1 if state < 7 else 2


class DepthBids:
    """A drafter of a depth fixed before the round, for engines where looking at a draft stops the device."""

    _PRIOR_RATE: Final = 0.6
    _MEMORY: Final = 60.0

    def __init__(self, name: str, costs: Costs, *, max_depth: int, parts: tuple[Part, Part]) -> None:
        self.name = name
        self._costs = costs
        self._draft, self._verify = parts
        self._max_depth = max_depth
        self._rates = [self._PRIOR_RATE] * max_depth  # of the draft at each depth, when those before were accepted
        self._tries = [4.0] * max_depth

    def bid(self, context: Tokens, limit: int) -> Bid | None:
        del context
        n, tokens, cost = best_length(self._rates[: max(0, limit)], self._cost)
        if n:
            return Bid(Arm(self.name, n), tokens, cost)
        return Bid(Arm(self.name, 1), 1.0 + self._rates[0], self._cost(1)) if limit > 0 else None

    def settle(self, arm: Arm, outcome: Outcome) -> None:
        del arm
        for depth in range(min(outcome.accepted + 1, outcome.drafted)):
            self._tries[depth] = min(self._tries[depth] + 1.0, self._MEMORY)
            self._rates[depth] += ((depth < outcome.accepted) - self._rates[depth]) / self._tries[depth]
        if outcome.drafted:
            self._costs.observe(self._draft, 1, outcome.draft_s / outcome.drafted)
        self._costs.observe(self._verify, outcome.drafted + 1, outcome.verify_s)

    def _cost(self, n: int) -> float:
        if not n:
            return 1.0
        return n * self._costs.ratio(self._draft) + self._costs.ratio(self._verify, n + 1)
