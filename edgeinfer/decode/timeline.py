"""The tokens held by a cache, and how much of a new prompt can reuse them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from itertools import chain

from edgeinfer.errors import PromptTooLongError, UsageError
from edgeinfer.types import Prompt, common_prefix, compact
from edgeinfer.window import MIN_BLOCK, WindowPolicy

NO_GAP = range(0)


@dataclass(slots=True)
class Timeline:
    """All tokens of a conversation, and the `gap` of tokens that a re-anchoring left out of the cache.

    Only the cache's length says what was run: `tokens` may be ahead of it until `settle`.
    """

    tokens: array[int] = field(default_factory=compact)
    gap: range = NO_GAP

    def position(self, index: int) -> int:
        """Positions that the first `index` tokens take."""
        return index - len(self.gap) if index >= self.gap.stop else min(index, self.gap.start)

    def index(self, length: int) -> int:
        """Tokens that the first `length` positions hold, those of the gap included."""
        return length + len(self.gap) if length > self.gap.start else length

    def settle(self, length: int) -> None:
        """Forget what a cache of `length` positions does not hold."""
        del self.tokens[self.index(length) :]
        if length <= self.gap.start:
            self.gap = NO_GAP


@dataclass(frozen=True, slots=True)
class Reuse:
    """How a prompt uses the cache: keep `length` positions, leave `gap` out, run the other tokens."""

    length: int
    gap: range
    shared: int  # tokens at the front that the timeline holds: they were run before

    def runs(self, n_tokens: int) -> list[int]:
        """Indices of the prompt's tokens to run, in order."""
        first = self.length + len(self.gap) if self.length > self.gap.start else self.length
        if first >= self.gap.stop:
            return list(range(first, n_tokens))
        return list(chain(range(first, self.gap.start), range(self.gap.stop, n_tokens)))


def reuse(timeline: Timeline, length: int, prompt: Prompt, policy: WindowPolicy) -> Reuse:
    """How much of a cache of `length` positions `prompt` can reuse. The last token is always run, for its row.

    Starts again at position 0 where the keys of the shared tokens are evicted, or the prompt does not fit below the
    limit: with all tokens if they fit the window or belong to another conversation, and re-anchored if not.
    Raises PromptTooLongError when the system prompt passes the sink, or the last two messages pass the limit.
    """
    n = len(prompt.tokens)
    if not n:
        raise UsageError("the prompt is empty", hint="give at least one token")
    if prompt.n_system > policy.sink:
        may_fit = prompt.n_system + 4 * MIN_BLOCK <= policy.limit
        raise PromptTooLongError(
            f"the system prompt has {prompt.n_system} tokens, the window keeps {policy.sink}",
            hint=f"--sink {prompt.n_system} fits it"
            if may_fit
            else f"shorten it: the model has {policy.limit} positions",
        )
    shared = min(common_prefix(timeline.tokens, prompt.tokens), n - 1)
    kept = timeline.position(shared)
    gap = timeline.gap if shared >= timeline.gap.stop else NO_GAP
    fits = n - len(gap) <= policy.limit and (not gap or _sees_enough(gap, prompt, shared, policy))
    if fits and policy.can_rewind(length, kept):
        return Reuse(kept, gap, shared)
    return afresh(prompt, shared, policy)


def afresh(prompt: Prompt, shared: int, policy: WindowPolicy) -> Reuse:
    """Start again at position 0, although `shared` tokens were run before. Raises UsageError like `reuse`."""
    n = len(prompt.tokens)
    another = not any(prompt.n_system < start <= shared for start in prompt.starts)
    if n <= policy.window or (another and n <= policy.limit):
        return Reuse(0, NO_GAP, shared)
    return Reuse(0, _anchor_prompt(prompt, policy), shared)


def anchor(prompt: Prompt, n_tokens: int, policy: WindowPolicy) -> range:
    """The tokens to leave out so that the system prompt and the newest `window // 2` of `n_tokens` stay.

    The cut moves to the nearest message start, if one is at most a block away.
    """
    cut = n_tokens - policy.window // 2
    near = [start for start in prompt.starts if abs(start - cut) <= policy.block]
    cut = min(near, key=lambda start: abs(start - cut), default=cut)
    return range(prompt.n_system, cut) if cut > prompt.n_system else NO_GAP


def _sees_enough(gap: range, prompt: Prompt, shared: int, policy: WindowPolicy) -> bool:
    """Whether enough tokens follow the gap. After an edit there may be fewer than a new re-anchoring would keep."""
    continues = not prompt.starts or shared == len(prompt.tokens) - 1
    whole = continues or gap.stop <= _newest(prompt)
    return whole and len(prompt.tokens) - gap.stop >= policy.window // 2 - policy.block


def _newest(prompt: Prompt) -> int:
    """Where the last two messages begin: the question, and the header of the answer."""
    return prompt.starts[-2] if len(prompt.starts) > 1 else prompt.n_system


def _anchor_prompt(prompt: Prompt, policy: WindowPolicy) -> range:
    """Like `anchor`, but the last two messages stay whole."""
    n, newest = len(prompt.tokens), _newest(prompt)
    needed = n - newest + min(prompt.n_system, newest)
    if needed > policy.limit:
        raise PromptTooLongError(
            f"the newest message needs {needed} positions, the model has {policy.limit}",
            hint="shorten it, or choose a model with a longer context",
        )
    gap = anchor(prompt, n, policy)
    return range(gap.start, newest) if gap.start < newest < gap.stop else (gap if newest >= gap.stop else NO_GAP)
