"""The decode loop: the only place that emits tokens, for every backend and every drafter."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter

from edgeinfer.decode.constraint import Constraint
from edgeinfer.decode.policy.arms import NONE, Arm, Controller, Fixed, Outcome
from edgeinfer.decode.policy.known import KnownDrafts, KnowsDrafts
from edgeinfer.decode.sampler import Sampler
from edgeinfer.decode.stats import AnswerStats, FinishReason
from edgeinfer.decode.target import Target
from edgeinfer.decode.timeline import Reuse, Timeline, afresh, anchor, reuse
from edgeinfer.errors import RewindError, UsageError
from edgeinfer.prefill import chunk_size
from edgeinfer.protocols import Ask, Drafter, Model, Round, Row, TokenLike, as_id
from edgeinfer.types import Prompt, Sampling, Tokens, compact
from edgeinfer.window import WindowPolicy

__all__ = ["Decoder"]

FORCED = "forced"  # the arm of drafts that a constraint names
FORCED_ACCEPTANCE = 0.97  # of 25 forced drafts 25 were accepted
MAX_KNOWN_ROWS = 8

_PLAIN = Fixed(NONE)
_NO_DRAFTERS: Mapping[str, Drafter] = {}


@dataclass(slots=True)
class _Answer:
    """The answer that is being written."""

    prompt: Prompt
    target: Target
    entry: Reuse | None  # what the prompt reuses of the cache; None once the cache has been rewound to it
    gone_before: int  # tokens of the conversation that no query saw any more when it began
    started: float = 0.0
    waiting: array[int] = field(default_factory=compact)  # tokens to run before the next one is decoded
    n_again: int = 0  # tokens at the front of `waiting` that were run before


@dataclass(frozen=True, slots=True)
class _Chunk:
    """An ask that adds a part of the prompt."""

    ask: Ask
    began: float


@dataclass(frozen=True, slots=True)
class _Round:
    """An ask that verifies drafts, or runs one token."""

    ask: Ask
    began: float
    arm: Arm
    chosen: float  # when the arm had been chosen
    drafted: float  # when the last draft had been made
    alone: bool  # no other conversation is in the step, so its time is the time of this round


class Decoder:
    """One conversation on one model. Owns its cache; the model stays the caller's.

    `controller` chooses an arm for every round; `drafters` has a drafter for each arm name but "none".

    `stream` runs an answer by itself. To run several conversations together, call `start` on each decoder, and while
    any is `running`: pass what `begin` returns for each to one `Model.run`, and its rows to `end`.
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
        self._model = model
        self._policy = policy
        self._controller = controller
        self._drafters = drafters
        self._knowing = [drafter for drafter in drafters.values() if isinstance(drafter, KnowsDrafts)]
        self._timeline = Timeline()
        self._interrupted = False
        self._answer: _Answer | None = None
        self._round: Round | None = None  # open, from `begin` to `end`
        self._step: _Chunk | _Round | None = None

    @property
    def running(self) -> bool:
        """Whether an answer has been started and has not ended."""
        return self._answer is not None

    @property
    def prefilling(self) -> bool:
        """Whether the next ask is a chunk of a prompt, as far as is known before it."""
        return (answer := self._answer) is not None and (answer.entry is not None or bool(answer.waiting))

    @property
    def n_waiting(self) -> int:
        """Tokens of the prompt that are still to be run."""
        if (answer := self._answer) is None:
            return 0
        return len(answer.waiting) if answer.entry is None else len(answer.prompt.tokens) - answer.entry.shared

    @property
    def tokens(self) -> Tokens:
        """The conversation so far, including tokens that have left the window."""
        return self._timeline.tokens

    @property
    def at_their_positions(self) -> Tokens:
        """The tokens before the gap that a re-anchoring left. The newest may not be in the cache yet."""
        gap = self._timeline.gap
        return self._timeline.tokens[: gap.start] if gap else self._timeline.tokens

    def reusable(self, prompt: Prompt) -> int:
        """Positions of the cache that `start` would keep. A running answer ends. Raises UsageError as `start` does."""
        self.stop()
        self._timeline.settle(self.cache.length)
        return reuse(self._timeline, self.cache.length, prompt, self._policy).length

    def adopt(self, tokens: Tokens) -> None:
        """Make `tokens`, with which the cache was filled from outside, the conversation."""
        self.stop()
        self._timeline = Timeline(compact(tokens))

    def forget(self) -> None:
        """End the answer and forget the conversation: the next prompt is run whole."""
        self.stop()
        self.cache.rewind(0)
        self._timeline = Timeline()

    def stream(
        self, prompt: Prompt, sampling: Sampling, *, max_tokens: int, stop_tokens: frozenset[int], first_index: int = 0
    ) -> Iterator[int]:
        """The tokens of the answer, including the stop token. One answer at a time.

        Raises what `start` raises, at the call, and EngineError when the engine fails. After an error, or if the caller
        stops reading, the next answer is still exact.
        """
        self.start(prompt, sampling, max_tokens=max_tokens, stop_tokens=stop_tokens, first_index=first_index)
        return self._emit(self.stats)

    def start(
        self,
        prompt: Prompt,
        sampling: Sampling,
        *,
        max_tokens: int,
        stop_tokens: frozenset[int],
        first_index: int = 0,
        constraint: Constraint | None = None,
    ) -> None:
        """Begin an answer. An answer that is still running ends.

        `first_index` is the index in the answer of the first token, for an answer that is continued. `constraint` is
        new, or has accepted the tokens before that. Raises UsageError for a prompt that does not fit.
        """
        if max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1; received {max_tokens}")
        self.stop()
        self.stats = AnswerStats(prompt=len(prompt.tokens))
        self._timeline.settle(self.cache.length)
        entry = reuse(self._timeline, self.cache.length, prompt, self._policy)
        gone = max(0, min(self._gone(), entry.shared - prompt.n_system))  # nothing yet in another conversation
        self._interrupted = False
        target = Target(Sampler(sampling), stop_tokens, max_tokens, first_index, constraint)
        self._answer = _Answer(prompt, target, entry, gone)

    def known_drafts(self) -> KnownDrafts | None:
        """What the next round could draft without a forward. None in a prompt, or where nothing is known."""
        answer = self._answer
        if answer is None or self.prefilling or (limit := self._most_known(self._most_drafts(answer))) < 1:
            return None
        if forced := answer.target.forced(limit):
            return KnownDrafts(FORCED, forced, [FORCED_ACCEPTANCE] * len(forced))
        return next((known for drafter in self._knowing if (known := drafter.known(limit))), None)

    def begin(self, max_rows: int | None = None, *, alone: bool = True, known: KnownDrafts | None = None) -> Ask:
        """The next ask of the running answer: a chunk of its prompt (of at most `max_rows` tokens), or a round.

        `alone` says that no other conversation is in the step. Beside others a round drafts what is `known`, and its
        time is not shown to the controller. Call `end` with the rows, or `undo` or `stop` if the engine failed. Raises
        EngineError, which ends the answer.
        """
        answer = self._answer
        if answer is None or self._step is not None:
            raise UsageError("`begin` needs a running answer, and the ask before must have ended")
        began = perf_counter()
        try:
            if answer.entry is not None:
                self._enter(answer, answer.entry, began)
            elif not answer.waiting and not self._policy.room(self.cache.length):
                self._reanchor(answer)
            if answer.waiting:
                self._step = self._begin_chunk(answer, began, max_rows)
            else:
                self._step = self._begin_round(answer, began, alone=alone, known=known)
        except BaseException:
            self._finish("")
            raise
        return self._step.ask

    def end(self, rows: Sequence[Row]) -> list[int]:
        """Take the rows of the ask, and keep what they confirm. The answer's next tokens: none after a chunk that is
        not the prompt's last. Raises EngineError, which ends the answer."""
        answer, step = self._answer, self._step
        if answer is None or step is None:
            raise UsageError("`end` needs an ask that was begun")
        try:
            if isinstance(step, _Chunk):
                tokens = self._end_chunk(answer, step, rows)
            else:
                tokens = self._end_round(answer, step, rows)
        except BaseException:
            self._finish("")
            raise
        self._step = self._round = None
        self.stats.emitted += len(tokens)
        if tokens and tokens[-1] in answer.target.stop_tokens:
            self._finish("stop")
        elif answer.target.left(self.stats.emitted) <= 0:
            self._finish("length")
        return tokens

    def undo(self) -> None:
        """Roll back the open ask, for which the engine gave no rows. `begin` may be called again."""
        step = self._round
        self._step = self._round = None
        if step is not None:
            step.rollback()

    def stop(self) -> None:
        """End the running answer, if there is one, and roll back an open ask."""
        if self._answer is not None:
            self._finish("canceled")

    def interrupt(self) -> None:
        """End the stream before its next step, also inside a long prompt. A signal handler or a thread may call it."""
        self._interrupted = True

    def close(self) -> None:
        """Free the cache. Safe to call twice."""
        self.cache.close()

    def _emit(self, stats: AnswerStats) -> Iterator[int]:
        n_unread = 0
        try:
            self._check_current(stats)
            while self.running:
                if self._interrupted:
                    self.stop()
                    return
                tokens = self.end(self._model.run([self.begin()])[0])
                n_unread = len(tokens)
                for token in tokens:
                    n_unread -= 1
                    yield token
                    self._check_current(stats)
        except GeneratorExit:
            stats.finish = "canceled"
            stats.emitted -= n_unread
            raise
        finally:
            if self.stats is stats and self.running:
                self._finish(stats.finish)
            self._model.rest()

    def _check_current(self, stats: AnswerStats) -> None:
        if self.stats is not stats:
            raise UsageError("another answer has begun on this decoder", hint="read one answer at a time")

    def _enter(self, answer: _Answer, entry: Reuse, began: float) -> None:
        """Rewind the cache to what the prompt reuses, and queue the rest of the prompt."""
        stats, prompt = self.stats, answer.prompt
        try:
            self.cache.rewind(entry.length)
        except RewindError:  # keys that the policy keeps have left a layer's own sliding window
            entry = afresh(prompt, entry.shared, self._policy)
            self.cache.rewind(entry.length)
        runs = entry.runs(len(prompt.tokens))
        self._timeline = Timeline(compact(prompt.tokens), entry.gap)
        answer.entry, answer.started = None, began
        answer.waiting = compact([prompt.tokens[index] for index in runs])
        answer.n_again = sum(index < entry.shared for index in runs)
        stats.reused = entry.length
        stats.reanchored = int(len(entry.gap) > 0 and entry.length == 0)

    def _begin_chunk(self, answer: _Answer, began: float, max_rows: int | None) -> _Chunk:
        n = chunk_size(self.cache, len(answer.waiting), max_rows)
        self._round = self.cache.begin(n)
        picks = n == len(answer.waiting) and not self.stats.emitted  # the prompt's last chunk
        return _Chunk(Ask(self._round, answer.waiting[:n], int(picks)), began)

    def _end_chunk(self, answer: _Answer, chunk: _Chunk, rows: Sequence[Row]) -> list[int]:
        stats, n = self.stats, len(chunk.ask.tokens)
        stats.prefill_s += perf_counter() - chunk.began
        tokens = [answer.target.pick(rows[0], self._timeline.tokens, stats.emitted)] if rows else []
        chunk.ask.round.commit(n)
        n_again = min(n, answer.n_again)
        answer.n_again -= n_again
        stats.reprefilled += n_again
        stats.prefilled += n - n_again
        del answer.waiting[:n]
        self._timeline.tokens.extend(tokens)
        if tokens:
            for drafter in self._drafters.values():
                drafter.reset(self._timeline.tokens)
            stats.first_token_s = perf_counter() - answer.started
        return tokens

    def _begin_round(self, answer: _Answer, began: float, *, alone: bool, known: KnownDrafts | None) -> _Round:
        context, limit = self._timeline.tokens, self._most_drafts(answer)
        if alone:
            forced = answer.target.forced(self._most_known(limit))
            known = KnownDrafts(FORCED, forced, ()) if forced else None
        arm = Arm(known.drafter, len(known.tokens)) if known else self._controller.choose(limit) if alone else NONE
        chosen = perf_counter()
        self._round = step = self.cache.begin(1 + arm.depth)
        drafts: Sequence[TokenLike] = known.tokens if known else ()
        if arm.depth and not known:
            view = answer.target.drafting(step, context, self.stats.emitted)
            drafts = self._drafters[arm.name].propose(view, arm.depth)
        tokens = [context[-1], *drafts]
        return _Round(Ask(step, tokens, len(tokens)), began, arm, chosen, perf_counter(), alone)

    def _most_drafts(self, answer: _Answer) -> int:
        return min(self._policy.room(self.cache.length), answer.target.left(self.stats.emitted)) - 1

    def _most_known(self, limit: int) -> int:
        return min(limit, (self._model.exact_rows or MAX_KNOWN_ROWS) - 1, MAX_KNOWN_ROWS - 1)

    def _end_round(self, answer: _Answer, step: _Round, rows: Sequence[Row]) -> list[int]:
        """The tokens that a round emits. The last one is not yet in the cache."""
        drafts = [as_id(draft) for draft in step.ask.tokens[1:]]
        tokens = answer.target.verify(rows, drafts, self._timeline.tokens, self.stats.emitted)
        step.ask.round.commit(len(tokens))
        ended = perf_counter()
        accepted = sum(token == draft for token, draft in zip(tokens, drafts, strict=False))
        outcome = Outcome(len(drafts), accepted, len(tokens), step.drafted - step.chosen, ended - step.drafted)
        for drafter in self._drafters.values():
            drafter.extend(tokens)
        if step.alone and step.arm.name != FORCED:
            self._controller.observe(step.arm, outcome)
        self.stats.add(step.arm.name, outcome, perf_counter() - step.began)
        return tokens

    def _reanchor(self, answer: _Answer) -> None:
        """At the limit: start again at position 0 with the system prompt and the newest half window."""
        tokens = self._timeline.tokens
        gap = anchor(answer.prompt, len(tokens) - 1, self._policy)
        answer.waiting = compact([*tokens[: gap.start], *tokens[gap.stop : -1]])
        answer.n_again = len(answer.waiting)
        self.cache.rewind(0)
        self._timeline.gap = gap
        self.stats.reanchored += 1

    def _gone(self) -> int:
        """Tokens of the conversation that no query can see any more."""
        return len(self._timeline.gap) + len(self._policy.evicted(self.cache.length))

    def _finish(self, reason: FinishReason) -> None:
        """End the running answer, and roll back an open round."""
        answer, step = self._answer, self._round
        self._answer = self._step = self._round = None
        if step is not None:
            step.rollback()
        length, stats = self.cache.length, self.stats
        stats.finish = reason
        stats.kept = length - len(self._policy.evicted(length))
        stats.evicted = max(0, self._gone() - answer.gone_before) if answer is not None else 0
        plain = stats.arms.get(NONE.name)
        measured = plain.seconds / plain.emitted if plain else 0.0
        stats.plain_s_per_token = self._controller.plain_s or measured
