"""A draft's layer on one conversation: a separate context with the conversation's window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeinfer.backends.gguf.facts import DRAFT_ROWS
from edgeinfer.backends.gguf.llama import Batch, Context, ContextOptions, LlamaModel
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats
    from edgeinfer.types import Logits

__all__ = ["GgufDraftLayer"]


class GgufDraftLayer:
    """See backends.taught.DraftLayer."""

    def __init__(self, model: LlamaModel, options: ContextOptions, policy: WindowPolicy) -> None:
        self._hidden = model.hidden
        self._policy = policy
        self._context = Context(model, options)
        self._batch = Batch(DRAFT_ROWS, hidden=model.hidden)
        self._evicted_to = policy.sink
        self.first = self.length = 0

    @property
    def room(self) -> int:
        return min(self._batch.capacity, self._policy.room(self.length))

    def feed(self, inputs: Floats) -> None:
        self._decode(inputs, n_wanted=0)

    def run(self, inputs: Floats) -> tuple[Logits, Floats]:
        n = len(inputs)
        self._decode(inputs, n_wanted=1)
        row = self._context.logits(n - 1).copy()
        return row[: -self._hidden], row[-self._hidden :]

    def rewind(self, length: int) -> None:
        if length < self._evicted_to:
            self._evicted_to = self._policy.sink
        if self._context.handle is not None:  # a round may end after its cache was closed
            self._context.remove(length)
        self.length = length

    def start_at(self, position: int) -> None:
        self.rewind(0)
        self.first = self.length = position

    def close(self) -> None:
        self._context.close()

    def _decode(self, inputs: Floats, *, n_wanted: int) -> None:
        evicted_to = self._policy.evicted(self.length).stop
        if evicted_to > self._evicted_to:
            self._context.remove(self._evicted_to, evicted_to)
            self._evicted_to = evicted_to
        self._batch.fill_inputs(inputs, self.length, n_wanted=n_wanted)
        self._context.decode(self._batch)
        self.length += len(inputs)
