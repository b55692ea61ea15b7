"""Which arm a round takes: the one with the most expected tokens per second, plain decoding included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from edgeinfer.decode.arms import NONE, Arm, Outcome
from edgeinfer.decode.bids import Bid, Bidder
from edgeinfer.decode.costs import Costs
from edgeinfer.types import Tokens

_MARGIN: Final = 1.01  # a bid must beat plain by this, as estimates are noisy
_SPARE: Final = 0.005  # share of all time that trials of losing arms may lose
_HOPELESS: Final = 0.4  # a bid of this pace or less is never tried
_SLOW: Final = 2.0  # a round that takes more than so many times what it should was held up
_LOOK_AGAIN: Final = 64  # rounds after which a plain one is due, so that costs have something to be measured against


@dataclass(slots=True)
class Ledger:
    """Time in plain rounds: all of it, and what trials lost against plain decoding."""

    spent: float = 0.0
    lost: float = 0.0

    def affords(self, bid: Bid) -> bool:
        return self.lost + max(0.0, bid.cost - bid.tokens) <= _SPARE * self.spent


def pick(bids: Sequence[Bid], ledger: Ledger) -> tuple[Bid | None, bool]:
    """The bid to take, of one or more, and whether it is a trial; None for a plain round."""
    best = bids[0] if len(bids) == 1 else max(bids, key=lambda bid: bid.pace)
    if best.pace >= _MARGIN:
        return best, False
    return (best, True) if best.pace > _HOPELESS and ledger.affords(best) else (None, False)


class Auto:
    """Chooses between plain decoding and what the bidders offer. The same observations give the same choices."""

    def __init__(self, bidders: Sequence[Bidder], costs: Costs) -> None:
        self._bidders = {bidder.name: bidder for bidder in bidders}
        self._costs = costs
        self._ledger = Ledger()
        self._trial: Bid | None = None  # taken though it loses, in the round that runs
        self._since_plain = 0

    @property
    def plain_s(self) -> float:
        """Seconds of a plain round now, as measured."""
        return self._costs.unit_s

    def choose(self, context: Tokens, limit: int) -> Arm:
        self._trial = None
        if limit < 1 or self._since_plain >= _LOOK_AGAIN:
            return NONE
        limit = min(limit, self._costs.max_rows - 1)
        offers = [offer for bidder in self._bidders.values() if (offer := bidder.bid(context, limit)) is not None]
        if not offers:
            return NONE
        bid, trial = pick(offers, self._ledger)
        self._trial = bid if trial else None
        return bid.arm if bid else NONE

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        seconds = outcome.draft_s + outcome.verify_s
        rounds = seconds / self._costs.unit_s
        self._ledger.spent += rounds
        if arm == NONE:
            self._since_plain = 0
            self._costs.observe("verify", 1, seconds)
            return
        self._since_plain += 1
        if self._trial:  # a hiccup of the machine is not the trial's fault
            self._ledger.lost += max(0.0, min(rounds, _SLOW * self._trial.cost) - outcome.emitted)
        self._bidders[arm.name].settle(arm, outcome)
