"""A small model with the same tokenizer as a drafter (arXiv 2211.17192), with a cache and a window of its own."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Final

from edgeinfer.decode.drafters.gated import Gated, GatedEstimator
from edgeinfer.decode.drafters.kind import Built, DrafterInputs, DrafterKind
from edgeinfer.decode.keyed import KeyedRound
from edgeinfer.decode.policy.costs import Part
from edgeinfer.errors import RewindError, UsageError
from edgeinfer.plan.speculation import DrafterFacts, Target
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache, Model, Round, Row
from edgeinfer.types import Tokens, common_prefix, compact
from edgeinfer.window import WindowPolicy

__all__ = ["DRAFT_MODEL", "DraftModel"]

NAME: Final = "draft"
ROUND_POSITIONS: Final = 16  # kept free in the cache for the drafts of a round
MAX_WINDOW: Final = 1024  # tokens: the draft model needs no long memory
TRIED_FIRST: Final = 32  # the most rejected drafts that the search for a common prefix goes back


class DraftModel:
    """A `Source` for `Gated`. Its cache may be ahead of the conversation; `start` rewinds to the common prefix."""

    name = NAME
    draft_part: Part = "model-draft"
    whole_part: Part = "verify"
    short_part: Part = "verify"

    def __init__(self, model: Model, policy: WindowPolicy) -> None:
        self._cache: Cache = model.new_cache(policy)
        self._policy = policy
        self._conversation = compact()
        self._skipped = 0  # tokens of the conversation before the cache's first position, dropped at the limit
        self._run = compact()  # the tokens at the cache's positions
        self._round: Round | None = None
        self._keyed: Callable[[int, Row], Row] = _unchanged

    def reset(self, context: Tokens) -> None:
        self._conversation = compact(context)

    def extend(self, tokens: Tokens) -> None:
        self._conversation.extend(tokens)

    def start(self, round: Round) -> None:
        """Rewind over rejected drafts, then run the tokens that the conversation has gained."""
        self._keyed = round.keyed if isinstance(round, KeyedRound) else _unchanged
        self._end_round()
        wanted = self._conversation[self._skipped : -1]
        shared = _shared(self._run, wanted)
        fits = len(wanted) + ROUND_POSITIONS <= self._policy.limit and (shared or not self._skipped)
        if not (fits and self._policy.can_rewind(self._cache.length, shared)):
            self._skipped = max(0, len(self._conversation) - 1 - self._policy.window // 2)
            wanted = self._conversation[self._skipped : -1]
            shared = 0
        if shared < self._cache.length:
            shared = self._rewind(shared)
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

    def _rewind(self, length: int) -> int:
        """Rewind to `length`, or to 0 if this model's own sliding window has evicted the keys."""
        try:
            self._cache.rewind(length)
        except RewindError:
            length = 0
            self._cache.rewind(length)
        return length

    def _end_round(self) -> None:
        """The round of the newest draft stays open until here, because its row is read after `draft` returns."""
        if self._round is not None:
            self._round.commit(1)
            self._round = None


def _unchanged(token: int, row: Row) -> Row:
    del token
    return row


def _shared(run: array[int], wanted: array[int]) -> int:
    """Length of the common prefix. All but the last few tokens are usually the same, so that is tried first."""
    for back in range(min(len(run), TRIED_FIRST)):
        n = len(run) - back
        if n <= len(wanted) and run[n - 1] == wanted[n - 1] and run[:n] == wanted[:n]:
            return n
    return common_prefix(run, wanted)


def _draft_window(target: WindowPolicy, max_positions: int) -> WindowPolicy:
    """A window for the draft model, within the positions for which it was trained."""
    limit = min(target.limit, max_positions)
    window = min(target.window, MAX_WINDOW, limit - target.sink)
    block = min(target.block, window // 4)
    if block < 1:
        raise UsageError(
            f"the draft model has {limit} positions, and the sink takes {target.sink} of them",
            hint="choose a smaller --sink",
        )
    return WindowPolicy(window=window // block * block, sink=target.sink, block=block, limit=limit)


def _note(target: Target) -> str:
    return f"drafts from {target.draft_model} while it is confident"


def _build(inputs: DrafterInputs) -> Built:
    draft = inputs.draft_model
    if draft is None:
        raise UsageError("speculation with a draft model needs its name", hint="--draft-model NAME")
    source = DraftModel(draft.model, _draft_window(inputs.window, draft.max_positions))
    gated = Gated(source, inputs.costs)
    return Built(gated, GatedEstimator(gated, inputs.costs), source.close)


DRAFT_MODEL: Final = DrafterKind(DrafterFacts(NAME, _note, needs="draft model"), _build)
