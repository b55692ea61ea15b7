"""The decode loop: the only place that emits tokens, for every backend and every drafter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from edgeinfer.decode.keyed import KeyedRound
from edgeinfer.decode.policy.arms import NONE, Arm, Controller, Fixed, Outcome
from edgeinfer.decode.sampler import Sampler
from edgeinfer.decode.stats import AnswerStats
from edgeinfer.decode.timeline import Reuse, Timeline, afresh, anchor, reuse
from edgeinfer.errors import RewindError, UsageError
from edgeinfer.protocols import Drafter, Model, Round, Row, TokenLike, as_id
from edgeinfer.types import Prompt, Sampling, compact
from edgeinfer.window import WindowPolicy

__all__ = ["Decoder"]

_PLAIN = Fixed(NONE)
_NO_DRAFTERS: Mapping[str, Drafter] = {}


@dataclass(frozen=True, slots=True)
class _Ask:
    prompt: Prompt
    sampler: Sampler
    max_tokens: int
    stop_tokens: frozenset[int]
    first_index: int


class Decoder:
    """One conversation on one model. Owns its cache; the model stays the caller's.

    `controller` chooses an arm for every round; `drafters` has a drafter for each arm name but "none".
    """

    def __init__(
        self,
        model: Model,
        policy: WindowPolicy,
        *,
        controller: Controller = _PLAIN,
        drafters: Mapping[str, Drafter] = _NO_DRAFTERS,
    ) -> None:
        self.stats = AnswerStats()  # of the running or last answer
        self.cache = model.new_cache(policy)
        self._policy = policy
        self._controller = controller
        self._drafters = drafters
        self._timeline = Timeline()

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, max_tokens: int, stop_tokens: frozenset[int], first_index: int = 0
    ) -> Iterator[int]:
        """The answer's tokens, the stop token included. One answer at a time.

        `first_index` is the index in the answer of the first token, for an answer that goes on. Raises UsageError
        for a prompt that does not fit, at the call; EngineFailed when the engine gives up. After either, and after
        a reader who walks away, the next answer is exact.
        """
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1; received {max_tokens}")
        self.stats = AnswerStats(prompt=len(prompt.tokens))  # ends an answer that still runs
        self._timeline.settle(self.cache.length)
        entry = reuse(self._timeline, self.cache.length, prompt, self._policy)
        return self._answer(_Ask(prompt, Sampler(sampling), max_tokens, stop_tokens, first_index), entry, self.stats)

    def close(self) -> None:
        """Free the cache. Safe to call twice."""
        self.cache.close()

    def _answer(self, ask: _Ask, entry: Reuse, stats: AnswerStats) -> Iterator[int]:
        self._check_current(stats)
        gone = max(0, min(self._gone(), entry.shared - ask.prompt.n_system))  # in another conversation, nothing yet
        try:
            tokens = [self._first(ask, entry)]
            while True:
                for token in tokens:
                    stats.emitted += 1
                    yield token
                    self._check_current(stats)
                if tokens[-1] in ask.stop_tokens:
                    stats.finish = "stop"
                    return
                if stats.emitted >= ask.max_tokens:
                    stats.finish = "length"
                    return
                if not self._policy.room(self.cache.length):
                    self._reanchor(ask.prompt)
                tokens = self._round(ask)
        except GeneratorExit:
            stats.finish = "canceled"
            raise
        finally:
            if self.stats is stats:
                self._account(gone)

    def _check_current(self, stats: AnswerStats) -> None:
        if self.stats is not stats:
            raise UsageError("another answer has begun on this decoder", hint="read one answer at a time")

    def _first(self, ask: _Ask, entry: Reuse) -> int:
        """Bring the prompt into the cache; the answer's first token."""
        stats, prompt = self.stats, ask.prompt
        started = perf_counter()
        try:
            self.cache.rewind(entry.length)
        except RewindError:  # keys that the policy keeps have left a layer's own sliding window
            entry = afresh(prompt, entry.shared, self._policy)
            self.cache.rewind(entry.length)
        runs = entry.runs(len(prompt.tokens))
        self._timeline = Timeline(compact(prompt.tokens), entry.gap)
        row = self.cache.prefill([prompt.tokens[index] for index in runs])
        stats.reused = entry.length
        stats.reprefilled = sum(index < entry.shared for index in runs[:-1])
        stats.prefilled = len(runs) - stats.reprefilled
        stats.reanchored = int(len(entry.gap) > 0 and entry.length == 0)
        stats.prefill_s = perf_counter() - started
        token = self._pick(ask, row)
        self._timeline.tokens.append(token)
        stats.first_token_s = perf_counter() - started
        return token

    def _round(self, ask: _Ask) -> list[int]:
        """One step: the tokens it emits, the last of which is not yet in the cache."""
        cache, context = self.cache, self._timeline.tokens
        began = perf_counter()
        depth = min(self._policy.room(cache.length), ask.max_tokens - self.stats.emitted) - 1
        arm = self._controller.choose(context, depth)
        chosen = perf_counter()
        step = cache.begin(1 + arm.depth)
        try:
            proposed = self._propose(ask, arm, step) if arm.depth else ()
            drafted = perf_counter()
            rows = step.verify([context[-1], *proposed])
            drafts = [as_id(draft) for draft in proposed]
            tokens = self._target(ask, rows, drafts)
            step.commit(len(tokens))
        finally:
            step.rollback()
        ended = perf_counter()
        accepted = sum(token == draft for token, draft in zip(tokens, drafts, strict=False))
        outcome = Outcome(len(drafts), accepted, len(tokens), drafted - chosen, ended - drafted)
        if arm.depth:
            self._drafters[arm.name].observe(tokens)
        self._controller.observe(arm, outcome)
        self.stats.add(arm.name, outcome, perf_counter() - began)
        return tokens

    def _propose(self, ask: _Ask, arm: Arm, round: Round) -> Sequence[TokenLike]:
        context = self._timeline.tokens
        view = round if ask.sampler.greedy else KeyedRound(round, ask.sampler, self._index(ask), context)
        return self._drafters[arm.name].propose(view, context, arm.depth)

    def _target(self, ask: _Ask, rows: Sequence[Row], drafts: list[int]) -> list[int]:
        """The target's own token of each row while the row before it matched its draft, cut after the last token."""
        context = self._timeline.tokens
        most = ask.max_tokens - self.stats.emitted
        tokens: list[int] = []
        for row, draft in zip(rows, [*drafts, None], strict=True):
            token = self._pick(ask, row, len(tokens))
            tokens.append(token)
            context.append(token)
            if token != draft or token in ask.stop_tokens or len(tokens) == most:
                break
        return tokens

    def _pick(self, ask: _Ask, row: Row, ahead: int = 0) -> int:
        if ask.sampler.greedy:
            return row.argmax()
        return ask.sampler.pick(row.numpy(), self._index(ask) + ahead, self._timeline.tokens)

    def _index(self, ask: _Ask) -> int:
        return ask.first_index + self.stats.emitted

    def _reanchor(self, prompt: Prompt) -> None:
        """At the limit: start again at position 0 with the system prompt and the newest half window."""
        tokens = self._timeline.tokens
        started = perf_counter()
        gap = anchor(prompt, len(tokens) - 1, self._policy)
        kept = [*tokens[: gap.start], *tokens[gap.stop : -1]]
        self.cache.rewind(0)
        self._timeline.gap = gap
        self.cache.prefill(kept)
        self.stats.reanchored += 1
        self.stats.reprefilled += len(kept)
        self.stats.prefill_s += perf_counter() - started

    def _gone(self) -> int:
        """Tokens of the conversation that no query sees any more."""
        return len(self._timeline.gap) + len(self._policy.evicted(self.cache.length))

    def _account(self, gone_before: int) -> None:
        length = self.cache.length
        self.stats.kept = length - len(self._policy.evicted(length))
        self.stats.evicted = max(0, self._gone() - gone_before)
        plain = self.stats.arms.get(NONE.name)
        measured = plain.seconds / plain.emitted if plain else 0.0
        self.stats.plain_s_per_token = self._controller.plain_s or measured
