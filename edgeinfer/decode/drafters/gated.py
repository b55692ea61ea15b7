"""Drafting while it pays: each draft is looked at, and the first unsure one ends it. For rows cheap to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Protocol

from edgeinfer.decode.policy.costs import Costs, Part
from edgeinfer.decode.policy.gate import COLD, Gate, bucket, confidence, row_price, worth_keeping
from edgeinfer.protocols import Round, Row, TokenLike
from edgeinfer.types import Tokens


class Source(Protocol):
    """Where drafts come from, one at a time."""

    name: str
    draft_part: Part
    whole_part: Part  # what the rows of a round cost when every one of them was a draft's input
    short_part: Part  # and when the newest was not

    def start(self, round: Round, context: Tokens) -> None: ...
    def draft(self, token: int) -> Row: ...


class ExitSource:
    """The model's own early layers."""

    name = "early-exit"
    draft_part: Part = "exit-draft"
    whole_part: Part = "back"
    short_part: Part = "back-short"

    def start(self, round: Round, context: Tokens) -> None:
        del context
        self._round = round

    def draft(self, token: int) -> Row:
        return self._round.draft(token)


class Gated:
    """Drafts from `source`, as many as are sure enough for what they cost.

    `pace` is the tokens per plain round that the time of a draft could earn elsewhere; the controller sets it.
    """

    def __init__(self, source: Source, costs: Costs, *, clock: Callable[[], float] = perf_counter) -> None:
        self.name = source.name
        self.pace = 1.0
        self.gate = Gate()
        self._source = source
        self._costs = costs
        self._clock = clock
        self._drafts: list[int] = []  # of the last round, also those not proposed
        self._states: list[int] = []
        self._carried = COLD  # the state that the last round ended in

    def propose(self, round: Round, context: Tokens, limit: int) -> Sequence[TokenLike]:
        self._source.start(round, context)
        self._drafts, self._states = [], []
        token, state, reach = context[-1], self._carried, 1.0
        while len(self._drafts) < limit:
            rows = len(self._drafts) + 1
            price = self.pace * row_price(self._short, rows, limit + 1)
            cost = self.pace * self._costs.ratio(self._source.draft_part)
            if self._drafts and reach * self.gate.surplus(state, price / reach) < cost:
                break
            token, seen = self._draft(token)
            self.gate.saw(state, seen)
            state = seen
            reach *= self.gate.rate(state)
            self._drafts.append(token)
            self._states.append(state)
        self._carried = state
        n = worth_keeping([self.gate.rate(state) for state in self._states], self.pace, self._round_cost)
        return self._drafts[:n]

    def observe(self, emitted: Tokens) -> None:
        for draft, state, token in zip(self._drafts, self._states, emitted, strict=False):  # ends with the first miss
            self.gate.learn(state, draft == token)
            if draft != token:
                self._carried = COLD

    def settle(self, drafted: int, verify_s: float) -> None:
        """Remember what the rows of the last round cost."""
        part = self._source.whole_part if len(self._drafts) > drafted else self._source.short_part
        self._costs.observe(part, drafted + 1, verify_s)

    @property
    def state(self) -> int:
        """How sure the newest draft was, or COLD; of the last round that this drafter had."""
        return self._carried

    def cost_of(self, drafted: int) -> float:
        """The last round, of which `drafted` were verified, in plain rounds: what its parts mostly take."""
        return len(self._drafts) * self._costs.ratio(self._source.draft_part) + self._round_cost(drafted)

    def cost_of_one(self, *, sure: float) -> float:
        """A round of one draft, in plain rounds, when the draft is verified with this chance."""
        source, ratio = self._source, self._costs.ratio
        verify = sure * ratio(source.short_part, 2) + (1.0 - sure) * ratio(source.whole_part, 1)
        return ratio(source.draft_part) + verify

    def _draft(self, token: int) -> tuple[int, int]:
        began = self._clock()
        row = self._source.draft(token)
        token = row.argmax()
        seen = bucket(confidence(row.numpy(), token))
        self._costs.observe(self._source.draft_part, 1, self._clock() - began)
        return token, seen

    def _short(self, rows: int) -> float:
        return self._costs.ratio(self._source.short_part, rows)

    def _round_cost(self, n: int) -> float:
        """Of verifying `n` of the drafts made."""
        part = self._source.whole_part if len(self._drafts) > n else self._source.short_part
        return self._costs.ratio(part, n + 1)
