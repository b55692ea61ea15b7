"""Which arm a round takes: the one with the most expected tokens per second, plain decoding included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from edgeinfer.decode.policy.arms import NONE, Arm, Outcome
from edgeinfer.decode.policy.costs import Costs
from edgeinfer.decode.policy.offers import Bid, Bidder
from edgeinfer.types import Tokens

_MARGIN: Final = 1.02  # a bid must beat plain by this, as estimates are noisy
_SPARE: Final = 0.005  # share of all time that trials of losing arms may lose
_CREDIT: Final = 2.0  # plain rounds that trials may lose in a row
_HOPELESS: Final = 0.4  # a bid of this pace or less is never tried
_SLOW: Final = 2.0  # a round that takes more than so many times what it should was held up

# A plain round is due now and then, as all costs are measured against it.
_LOOK_FIRST: Final = 2  # after so many others at first, then after twice as many each time,
_LOOK_AGAIN: Final = 64  # up to so many;
_LOOK_SOON: Final = 8  # already after so many where
_DRIFT: Final = 0.08  # costs have drifted by this much.

# Asking costs a hundredth of a quick round.
_QUICK_S: Final = 0.01  # a plain round below this is quick:
_IDLE: Final = 8  # when so many questions in a row brought no bid worth taking,
_REST: Final = 3  # so many rounds after each are plain without one.

Worth: TypeAlias = Literal["take", "try", "leave"]


@dataclass(slots=True)
class Ledger:
    """Time in plain rounds: all of it, and what trials lost against plain decoding."""

    spent: float = 0.0
    lost: float = 0.0

    def spend(self, rounds: float) -> None:
        """Time passes. What was not lost is not saved up: a long good time must not pay for a long bad one."""
        self.spent += rounds
        self.lost = max(self.lost, _SPARE * self.spent - _CREDIT)

    def affords(self, bid: Bid) -> bool:
        return self.lost + max(0.0, bid.cost - bid.tokens) <= _SPARE * self.spent


def worth(bid: Bid, ledger: Ledger) -> Worth:
    """Whether to take the best bid, and if it loses, whether to try it all the same."""
    if bid.pace >= _MARGIN:
        return "take"
    return "try" if bid.pace > _HOPELESS and ledger.affords(bid) else "leave"


class Auto:
    """Chooses between plain decoding and what the bidders offer. The same observations give the same choices.

    All of it runs before a round, with the processor's caches full of weights: what it touches is what it costs.
    """

    def __init__(self, bidders: Sequence[Bidder], costs: Costs) -> None:
        self._bidders = tuple(bidders)
        self._by_name = {bidder.name: bidder for bidder in bidders}
        self._costs = costs
        self._ledger = Ledger()
        self._trial: Bid | None = None  # taken though it loses, in the round that runs
        self._since_plain = 0
        self._look_after = _LOOK_FIRST
        self._idle = 0  # questions since a bid was taken
        self._rest = 0  # rounds in which none is asked for

    @property
    def plain_s(self) -> float:
        """Seconds of a plain round now, as measured."""
        return self._costs.unit_s

    @property
    def _drifted(self) -> bool:
        return self._since_plain >= _LOOK_SOON and abs(self._costs.drift) > _DRIFT

    def choose(self, context: Tokens, limit: int) -> Arm:
        self._trial = None
        if limit < 1 or self._since_plain >= self._look_after or self._drifted:
            return NONE
        if self._rest:
            self._rest -= 1
            return NONE
        best = self._best(context, min(limit, self._costs.max_rows - 1))
        verdict = worth(best, self._ledger) if best else "leave"
        if best is None or verdict == "leave":
            self._idle += 1
            if self._idle > _IDLE and self._costs.unit_s < _QUICK_S:
                self._rest = _REST
            return NONE
        self._idle = 0
        if verdict == "try":
            self._trial = best
        return best.arm

    def _best(self, context: Tokens, limit: int) -> Bid | None:
        best: Bid | None = None
        for bidder in self._bidders:
            bid = bidder.bid(context, limit)
            if bid is not None and (best is None or bid.pace > best.pace):
                best = bid
        return best

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        seconds = outcome.draft_s + outcome.verify_s
        rounds = seconds / self._costs.unit_s
        self._ledger.spend(rounds)
        if not arm.depth:
            if self._since_plain >= self._look_after:
                self._look_after = min(2 * self._look_after, _LOOK_AGAIN)
            self._since_plain = 0
            self._costs.observe_plain(seconds)
            return
        self._since_plain += 1
        if self._trial:  # a hiccup of the machine is not the trial's fault
            self._ledger.lost += max(0.0, min(rounds, _SLOW * self._trial.cost) - outcome.emitted)
        self._by_name[arm.name].settle(arm, outcome)
