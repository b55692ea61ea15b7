"""A small model with the same tokenizer as a drafter (arXiv 2211.17192), with a cache and a window of its own."""

from __future__ import annotations

from array import array
from collections.abc import Callable

from edgeinfer.decode.keyed import KeyedRound
from edgeinfer.decode.policy.costs import Part
from edgeinfer.errors import RewindError, UsageError
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache, Model, Round, Row, Tokenizer
from edgeinfer.types import Tokens, compact
from edgeinfer.window import WindowPolicy

_AHEAD = 16  # positions that one round of drafts may need
_SAMPLE = 997  # every so-many-th token is compared (a prime, so that no regular vocabulary hides between)


class DraftModel:
    """A `Source` for `Gated`. What it has run may be ahead of the conversation: it goes back where they part."""

    name = "draft"
    draft_part: Part = "model-draft"
    whole_part: Part = "verify"
    short_part: Part = "verify"

    def __init__(self, model: Model, policy: WindowPolicy) -> None:
        self._cache: Cache = model.new_cache(policy)
        self._policy = policy
        self._run = compact()  # the tokens behind the cache's positions
        self._skipped = 0  # tokens of the conversation before them, dropped at the limit
        self._round: Round | None = None
        self._keyed: Callable[[int, Row], Row] = _as_it_is

    def start(self, round: Round, context: Tokens) -> None:
        """Catch up: run what the conversation has gained, after going back to where it left what was drafted."""
        self._keyed = round.keyed if isinstance(round, KeyedRound) else _as_it_is
        self._end_round()
        wanted = compact(context[self._skipped : -1])
        shared = _shared(self._run, wanted)
        fits = len(wanted) + _AHEAD <= self._policy.limit and (shared or not self._skipped)
        if not (fits and self._policy.can_rewind(self._cache.length, shared)):
            self._skipped = max(0, len(context) - 1 - self._policy.window // 2)
            wanted = compact(context[self._skipped : -1])
            shared = 0
        if shared < self._cache.length:
            shared = self._go_back(shared)
        del self._run[shared:]
        new = wanted[shared:]
        if new:
            prefill(self._cache, new.tolist())
            self._run.extend(new)

    def draft(self, token: int) -> Row:
        self._end_round()
        step = self._cache.begin(1)
        try:
            row = step.verify([token])[0]
        except BaseException:
            step.rollback()
            raise
        self._round = step
        self._run.append(token)
        return self._keyed(token, row)

    def close(self) -> None:
        self._cache.close()

    def _go_back(self, length: int) -> int:
        """To `length`, or to 0 where this model's own sliding window has lost the keys."""
        try:
            self._cache.rewind(length)
        except RewindError:
            length = 0
            self._cache.rewind(length)
        return length

    def _end_round(self) -> None:
        """The row of a draft is read while its round is open."""
        if self._round is not None:
            self._round.commit(1)
            self._round = None


def _as_it_is(token: int, row: Row) -> Row:
    del token
    return row


def _shared(a: array[int], b: array[int]) -> int:
    """How long the common front is. Mostly all but the last few, so that is tried first."""
    for back in range(min(len(a), 32)):
        n = len(a) - back
        if n <= len(b) and a[n - 1] == b[n - 1] and a[:n] == b[:n]:
            return n
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def check_same_tokens(model: Tokenizer, draft: Tokenizer) -> None:
    """Raises UsageError when the two tokenizers do not number their tokens alike."""
    hint = "the draft model must have the tokenizer of the model"
    if model.n_vocab != draft.n_vocab:
        raise UsageError(f"the draft model has {draft.n_vocab} tokens, the model has {model.n_vocab}", hint=hint)
    different = [
        token for token in (*range(min(512, model.n_vocab)), *range(512, model.n_vocab, _SAMPLE))
        if model.piece(token) != draft.piece(token)
    ]  # fmt: skip
    if different or model.stop_tokens != draft.stop_tokens:
        what = f"token {different[0]} differs" if different else "the stop tokens differ"
        raise UsageError(f"the draft model's tokenizer is not the model's: {what}", hint=hint)
