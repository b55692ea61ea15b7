"""Drafts one token at a time while the next one is certain enough, for drafters whose logits are cheap to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, Protocol

from edgeinfer.decode.policy.arms import Arm, Outcome
from edgeinfer.decode.policy.costs import DEEPER, FIRST, MAX_ROUND, Costs, Part
from edgeinfer.decode.policy.gate import MISSED, UNKNOWN, Gate, bucket, confidence
from edgeinfer.decode.policy.lookahead import LookAhead, RoundTimes, look_ahead
from edgeinfer.decode.policy.offers import OVERESTIMATE, Offer, n_worth_verifying
from edgeinfer.protocols import Round, Row, TokenLike
from edgeinfer.types import Tokens

MAX_DRAFTS: Final = 8
# Rounds of a conversation, of any drafter, after which the look-ahead is worked out again; then after twice as many, up
# to the most. It takes 0.4 ms.
FIRST_LOOK: Final = 16
MAX_LOOK: Final = 64


class Source(Protocol):
    """Where the drafts come from. `reset` and `extend` are those of a drafter."""

    name: str
    draft_part: Part
    whole_part: Part  # the verify, when every verified token was the input of a draft
    short_part: Part  # the verify, when every one but the newest was

    def reset(self, context: Tokens) -> None: ...
    def extend(self, tokens: Tokens) -> None: ...
    def start(self, round: Round) -> None: ...
    def draft(self, token: int) -> Row:
        """The row after `token`, which is the last emitted token or the newest draft."""
        ...


class Gated:
    """Drafts from `source` while the next one is certain enough for its cost."""

    def __init__(
        self,
        source: Source,
        costs: Costs,
        *,
        agreement: float | None = None,
        reads_prompt: bool = False,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`agreement` is the share of right first drafts of a taught draft.

        `reads_prompt`: the first draft of an answer takes longer, because it reads what came before.
        """
        self.name = source.name
        self.max_depth = min(MAX_DRAFTS, costs.max_rows - 1)
        self.gate = Gate(agreement)
        self.tokens_per_time = 1.0  # what the time of a plain round would earn elsewhere, in tokens
        self._source = source
        self._reads_prompt = reads_prompt
        self._costs = costs
        self._clock = clock
        self._last = 0  # emitted token
        self._drafts: list[int] = []  # of the running round, including those not proposed
        self._states: list[int] = []
        self._n_drafts = 0  # of the last round, including those not proposed
        self._n_rounds = 0  # of this answer
        self._state = UNKNOWN  # in which the last round ended
        self._ahead: LookAhead | None = None
        self._look_after = self._until_look = 0  # rounds

    def reset(self, context: Tokens) -> None:
        self._last = context[-1]
        self._drafts, self._states = [], []
        self._n_rounds = 0
        self._state = UNKNOWN
        self._source.reset(context)
        self.gate.begin_answer()

    def extend(self, tokens: Tokens) -> None:
        self._until_look -= 1
        self._state = self._states[-1] if self._states else UNKNOWN
        for draft, state, token in zip(self._drafts, self._states, tokens, strict=False):  # ends at the first miss
            self.gate.learn(state, draft == token)
            if draft != token:
                self._state = MISSED
        self._drafts, self._states = [], []
        self._last = tokens[-1]
        self._source.extend(tokens)

    def propose(self, round: Round, limit: int) -> Sequence[TokenLike]:
        self._source.start(round)
        self._drafts, self._states = [], []
        self._n_rounds += 1
        ahead, token, state, reached = self.ahead, self._last, self._state, 1.0
        while len(self._drafts) < limit:
            if self._drafts and not ahead.goes_on(len(self._drafts), state, reached):
                break
            token, after = self._draft(token)
            self.gate.learn_transition(state, after)
            state = after
            reached *= self.gate.acceptance(state)
            self._drafts.append(token)
            self._states.append(state)
        self._n_drafts = len(self._drafts)
        acceptance = [self.gate.acceptance(state) for state in self._states]
        return self._drafts[: n_worth_verifying(acceptance, self.tokens_per_time, self._verify_time)]

    @property
    def ahead(self) -> LookAhead:
        """What rounds are expected to give, and how far they draft."""
        if self._ahead is not None and self._until_look > 0:
            return self._ahead
        self._look_after = self._until_look = min(max(2 * self._look_after, FIRST_LOOK), MAX_LOOK)
        return self._look()

    def _look(self) -> LookAhead:
        ratio, source = self._costs.ratio, self._source
        rows = range(1, self.max_depth + 2)
        times = RoundTimes(
            ratio(source.draft_part, FIRST),
            ratio(source.draft_part, DEEPER),
            [ratio(source.short_part, n) for n in rows],
            [ratio(source.whole_part, n) for n in rows],
        )
        self._ahead = ahead = look_ahead(self.gate, times, self.tokens_per_time)
        self.tokens_per_time = max(1.0, ahead.tokens[UNKNOWN] / ahead.time[UNKNOWN])  # for the next time
        return ahead

    @property
    def state(self) -> int:
        """Of the gate, before the next round."""
        return self._state

    def observe_verify(self, drafted: int, seconds: float) -> None:
        """The verify of the last round, with `drafted` drafts, took this long."""
        self._costs.observe(self._verify_part(drafted), drafted + 1, seconds)

    @property
    def has_read_prompt(self) -> bool:
        """Whether the last round's time is that of its drafts alone."""
        return not self._reads_prompt or self._n_rounds > 1

    def expected_time(self, drafted: int) -> float:
        """Plain rounds that the last round should have taken, with `drafted` of its drafts verified."""
        part, n = self._source.draft_part, self._n_drafts
        drafts = self._costs.ratio(part, FIRST) + (n - 1) * self._costs.ratio(part, DEEPER)
        return drafts + self._verify_time(drafted)

    def _draft(self, token: int) -> tuple[int, int]:
        began = self._clock()
        row = self._source.draft(token)
        token = row.argmax()
        state = bucket(confidence(row.numpy(), token))
        if self._drafts or self.has_read_prompt:
            place = DEEPER if self._drafts else FIRST
            self._costs.observe(self._source.draft_part, place, self._clock() - began)
        return token, state

    def _verify_part(self, n: int) -> Part:
        return self._source.whole_part if self._n_drafts > n else self._source.short_part

    def _verify_time(self, n: int) -> float:
        return self._costs.ratio(self._verify_part(n), n + 1)


class GatedEstimator:
    """Offers the rounds of a gated drafter: what its gate expects, in the mean time that such rounds have really taken.

    Costs are near medians. On a busy machine every part of a round may be interrupted, and the mean is far from the sum
    of the parts' medians.
    """

    PRIOR_TIME: Final = 6.0  # plain rounds, as long as expected
    MEMORY_ROUNDS: Final = 64.0

    def __init__(self, gated: Gated, costs: Costs) -> None:
        self.name = gated.name
        self._gated = gated
        self._costs = costs
        self._expected = self._taken = self.PRIOR_TIME  # time of the last rounds, fading

    def offer(self, limit: int) -> Offer | None:
        depth = min(limit, self._gated.max_depth)
        if depth < 1:
            return None
        ahead, state = self._gated.ahead, self._gated.state
        overrun = max(1.0, self._taken / self._expected / self._costs.plain_mean)
        time = max(1.0, ahead.time[state] * overrun)  # no drafted round is quicker than a plain one, whatever was timed
        return Offer(Arm(self.name, depth), ahead.tokens[state], time * OVERESTIMATE)

    def observe(self, outcome: Outcome) -> None:
        expected = self._gated.expected_time(outcome.drafted)
        longest = MAX_ROUND * expected if self._gated.has_read_prompt else expected
        fade = 1.0 - 1.0 / self.MEMORY_ROUNDS
        self._expected = fade * self._expected + expected
        self._taken = fade * self._taken + min(outcome.seconds / self._costs.unit_s, longest)
        self._gated.observe_verify(outcome.drafted, outcome.verify_s)
