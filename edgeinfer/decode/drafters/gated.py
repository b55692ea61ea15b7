"""Drafts one token at a time and stops at the first uncertain one, for drafters whose logits are cheap to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, Protocol

from edgeinfer.decode.policy.arms import Arm, Outcome
from edgeinfer.decode.policy.costs import Costs, Part
from edgeinfer.decode.policy.gate import UNKNOWN, Gate, bucket, confidence, marginal_row_time, n_worth_verifying
from edgeinfer.decode.policy.offers import Offer
from edgeinfer.protocols import Round, Row, TokenLike
from edgeinfer.types import Tokens


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
    """Drafts from `source` while the next one is certain enough for its cost.

    `tokens_per_time` is what the time of a draft would earn elsewhere, in tokens per plain round; the estimator sets
    it.
    """

    def __init__(
        self,
        source: Source,
        costs: Costs,
        *,
        agreement: float | None = None,
        reads_prompt: bool = False,
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        """`agreement` is the share of right first drafts of a taught draft. Its confidence is calibrated, so it looks
        ahead: it drafts on while some number of further drafts is expected to be worth more than stopping.

        `reads_prompt`: the first draft of an answer takes longer, because it reads what came before.
        """
        self.name = source.name
        self.tokens_per_time = 1.0
        self.gate = Gate(agreement)
        self._source = source
        self._is_taught = agreement is not None
        self._reads_prompt = reads_prompt
        self._costs = costs
        self._clock = clock
        self._last = 0  # emitted token
        self._drafts: list[int] = []  # of the running round, including those not proposed
        self._states: list[int] = []
        self._n_drafts = 0  # of the last round, including those not proposed
        self._acceptance: list[float] = []  # expected, of these drafts
        self._n_rounds = 0  # of this answer
        self._state = UNKNOWN  # in which the last round ended

    def reset(self, context: Tokens) -> None:
        self._last = context[-1]
        self._drafts, self._states = [], []
        self._n_rounds = 0
        self._source.reset(context)

    def extend(self, tokens: Tokens) -> None:
        for draft, state, token in zip(self._drafts, self._states, tokens, strict=False):  # ends at the first miss
            self.gate.learn(state, draft == token)
            if draft != token:
                self._state = UNKNOWN
        self._drafts, self._states = [], []
        self._last = tokens[-1]
        self._source.extend(tokens)

    def propose(self, round: Round, limit: int) -> Sequence[TokenLike]:
        self._source.start(round)
        self._drafts, self._states = [], []
        self._n_rounds += 1
        token, state, reached = self._last, self._state, 1.0
        while len(self._drafts) < limit:
            if self._drafts and not self._pays_to_go_on(state, reached, limit):
                break
            token, after = self._draft(token)
            self.gate.learn_transition(state, after)
            state = after
            reached *= self.gate.acceptance(state)
            self._drafts.append(token)
            self._states.append(state)
        self._state = state
        self._n_drafts = len(self._drafts)
        self._acceptance = [self.gate.acceptance(state) for state in self._states]
        return self._drafts[: n_worth_verifying(self._acceptance, self.tokens_per_time, self._verify_time)]

    def _pays_to_go_on(self, state: int, reached: float, limit: int) -> bool:
        """Whether to draft once more, if all earlier drafts are right with the probability `reached`."""
        n, draft_price = len(self._drafts), self.tokens_per_time * self._costs.ratio(self._source.draft_part)
        if not self._is_taught:
            row_price = self.tokens_per_time * marginal_row_time(self._short, n + 1, limit + 1)
            return reached * self.gate.expected_gain(state, row_price / reached) >= draft_price
        rates = [self.gate.acceptance(drafted) for drafted in self._states]
        stop = max(self._worth(rates[:verified]) for verified in range(n + 1))
        ahead = self.gate.expected_gain(state, 0.0)
        go_on = (self._worth([*rates, *[ahead] * more]) - more * draft_price for more in range(1, limit - n + 1))
        return any(worth > stop for worth in go_on)

    def _worth(self, rates: Sequence[float]) -> float:
        """Expected tokens of a verify of drafts with these acceptance rates, less the tokens that its time is worth."""
        return _expected_tokens(rates) - self.tokens_per_time * (self._short(len(rates) + 1) if rates else 1.0)

    @property
    def state(self) -> int:
        """Confidence bucket of the newest draft in the last round of this drafter, or UNKNOWN."""
        return self._state

    def observe_verify(self, drafted: int, seconds: float) -> None:
        """The verify of the last round, with `drafted` drafts, took this long."""
        self._costs.observe(self._verify_part(drafted), drafted + 1, seconds)

    @property
    def has_read_prompt(self) -> bool:
        """Whether the last round's time is that of its drafts alone."""
        return not self._reads_prompt or self._n_rounds > 1

    def expected_tokens(self, drafted: int) -> float:
        """Tokens that the last round should have given, with `drafted` of its drafts verified."""
        return _expected_tokens(self._acceptance[:drafted])

    def expected_time(self, drafted: int) -> float:
        """Plain rounds that the last round should have taken, with `drafted` of its drafts verified."""
        return self._n_drafts * self._costs.ratio(self._source.draft_part) + self._verify_time(drafted)

    def expected_round(self, agreement: Sequence[float], max_drafts: int) -> tuple[float, float]:
        """Tokens and time, in plain rounds, of the best round of at least one draft, all of them verified.

        Drafts beyond those of `agreement` are right as often as its last one.
        """
        draft_time = self._costs.ratio(self._source.draft_part)
        tokens, reached, best = 1.0, 1.0, (0.0, 1.0)
        for n in range(1, max_drafts + 1):
            reached *= agreement[min(n, len(agreement)) - 1]
            tokens += reached
            time = n * draft_time + self._short(n + 1)
            if tokens * best[1] > best[0] * time:
                best = tokens, time
        return best

    def expected_time_of_one(self, *, p_verified: float) -> float:
        """Plain rounds that a round of one draft takes, when the draft is verified with this probability."""
        source, ratio = self._source, self._costs.ratio
        verify = p_verified * ratio(source.short_part, 2) + (1.0 - p_verified) * ratio(source.whole_part, 1)
        return ratio(source.draft_part) + verify

    def _draft(self, token: int) -> tuple[int, int]:
        began = self._clock()
        row = self._source.draft(token)
        token = row.argmax()
        state = bucket(confidence(row.numpy(), token))
        if self._drafts or self.has_read_prompt:
            self._costs.observe(self._source.draft_part, 1, self._clock() - began)
        return token, state

    def _short(self, rows: int) -> float:
        return self._costs.ratio(self._source.short_part, rows)

    def _verify_part(self, n: int) -> Part:
        return self._source.whole_part if self._n_drafts > n else self._source.short_part

    def _verify_time(self, n: int) -> float:
        return self._costs.ratio(self._verify_part(n), n + 1)


def _expected_tokens(rates: Sequence[float]) -> float:
    """Expected tokens of a verify of drafts with these acceptance rates, each given that those before were accepted."""
    tokens, reached = 1.0, 1.0
    for rate in rates:
        reached *= rate
        tokens += reached
    return tokens


class _Mean:
    """Running means of the tokens and the time of a round."""

    __slots__ = ("memory", "rounds", "time", "tokens")

    def __init__(self, memory: float, *, tokens: float = 0.0, time: float = 0.0, rounds: float = 0.0) -> None:
        """`memory` is the number of rounds after which old ones fade."""
        self.memory, self.tokens, self.time, self.rounds = memory, tokens, time, rounds

    def add(self, tokens: float, time: float) -> None:
        self.rounds = min(self.rounds + 1.0, self.memory)
        self.tokens += (tokens - self.tokens) / self.rounds
        self.time += (time - self.time) / self.rounds


class GatedEstimator:
    """A gated drafter decides its depth inside the round. Its offer is the mean of past rounds that started in a
    similar confidence state, shrunk towards the mean of all its rounds while the sample is small."""

    # Priors: how often the first draft is certain enough to be verified, and its acceptance rate when it is.
    PRIOR_VERIFIED: Final = 0.45
    PRIOR_ACCEPTANCE: Final = 0.97
    PRIOR_ROUNDS: Final = 4.0
    MEMORY_ROUNDS: Final = 24.0
    # The confidence of a taught draft is calibrated: its loss is the distance to the model's own distribution. So its
    # rounds count the tokens that their confidence predicts, which is less noisy than the result. The prior is what its
    # file says, and the memory is longer. docs/speculation-taught.md has what each of these gave.
    TAUGHT_PRIOR_ROUNDS: Final = 16.0
    TAUGHT_MEMORY_ROUNDS: Final = 64.0
    MAX_OVERRUN: Final = 1.5  # a round that takes longer than this multiple of its parts was interrupted

    def __init__(self, gated: Gated, costs: Costs, *, max_depth: int, agreement: Sequence[float] = ()) -> None:
        """`agreement` by depth is known of a taught draft: its first offers are then those of rounds without a gate."""
        self.name = gated.name
        self._gated = gated
        self._costs = costs
        self._max_depth = max_depth
        self._is_taught = bool(agreement)
        self._prior_rounds = self.TAUGHT_PRIOR_ROUNDS if agreement else self.PRIOR_ROUNDS
        memory = self.TAUGHT_MEMORY_ROUNDS if agreement else self.MEMORY_ROUNDS
        self._means = {group: _Mean(memory) for group in range(4)}
        if agreement:
            tokens, time = gated.expected_round(agreement, max_depth)
        else:
            tokens = 1.0 + self.PRIOR_VERIFIED * self.PRIOR_ACCEPTANCE
            time = gated.expected_time_of_one(p_verified=self.PRIOR_VERIFIED)
        self._all = _Mean(memory, tokens=tokens, time=time, rounds=self._prior_rounds)
        self._group = _similar(UNKNOWN)
        self._offer: Offer | None = None  # holds until the next round of this drafter

    def offer(self, limit: int) -> Offer | None:
        depth = min(limit, self._max_depth)
        if self._offer is not None and self._offer.arm.depth == depth:
            return self._offer
        if depth < 1:
            return None
        self._group = _similar(self._gated.state)
        own, every, prior = self._means[self._group], self._all, self._prior_rounds
        total = own.rounds + prior
        tokens = (own.tokens * own.rounds + every.tokens * prior) / total
        time = (own.time * own.rounds + every.time * prior) / total
        self._offer = Offer(Arm(self.name, depth), tokens, time)
        return self._offer

    def observe(self, outcome: Outcome) -> None:
        expected = self._gated.expected_time(outcome.drafted)
        longest = self.MAX_OVERRUN * expected if self._gated.has_read_prompt else expected
        time = min(outcome.seconds / self._costs.unit_s, longest)
        tokens = self._gated.expected_tokens(outcome.drafted) if self._is_taught else outcome.emitted
        self._means[self._group].add(tokens, time)
        self._all.add(tokens, time)
        self._gated.tokens_per_time = max(1.0, self._all.tokens / self._all.time)
        self._gated.observe_verify(outcome.drafted, outcome.verify_s)
        self._offer = None


def _similar(state: int) -> int:
    """Groups of states that predict the next draft alike: unsure, medium, sure, unknown."""
    if state == UNKNOWN:
        return 3
    return 0 if state < 4 else 1 if state < 7 else 2
