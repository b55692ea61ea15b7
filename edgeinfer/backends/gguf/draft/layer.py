"""A draft's layer on the conversations of a context: another context with as many streams, and with their window."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from edgeinfer.backends.gguf.batch import Batch
from edgeinfer.backends.gguf.facts import DRAFT_ROWS
from edgeinfer.backends.gguf.llama import Context, ContextOptions, LlamaModel
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats
    from edgeinfer.types import Logits

__all__ = ["DraftStreams", "GgufDraftLayer"]


class DraftStreams:
    """The context of a draft's layer. A conversation keeps its stream here when it moves in the model's context."""

    def __init__(self, model: LlamaModel, options: ContextOptions) -> None:
        """`options` are those of the model's context."""
        self._context = Context(model, replace(options, n_batch=DRAFT_ROWS, n_outputs=1))
        self._batch = Batch(DRAFT_ROWS, hidden=model.hidden)
        self._free = list(range(options.n_streams))

    def new_layer(self, policy: WindowPolicy) -> GgufDraftLayer:
        """Not more at once than there are streams."""
        return GgufDraftLayer(self._context, self._batch, policy, self._free.pop(), self._free.append)

    def close(self) -> None:
        self._context.close()


class GgufDraftLayer:
    """See backends.taught.DraftLayer."""

    def __init__(
        self, context: Context, batch: Batch, policy: WindowPolicy, stream: int, free: Callable[[int], None]
    ) -> None:
        """`free` takes the stream back."""
        self._context = context
        self._batch = batch
        self._policy = policy
        self._stream = stream
        self._free = free
        self._closed = False
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
        hidden = self._batch.hidden
        return row[:-hidden], row[-hidden:]

    def rewind(self, length: int) -> None:
        if length < self._evicted_to:
            self._evicted_to = self._policy.sink
        if not self._closed and self._context.handle is not None:  # a round may end after its cache was closed
            self._context.remove(length, stream=self._stream)
        self.length = length

    def start_at(self, position: int) -> None:
        self.rewind(0)
        self.first = self.length = position

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._free(self._stream)

    def _decode(self, inputs: Floats, *, n_wanted: int) -> None:
        evicted_to = self._policy.evicted(self.length).stop
        if evicted_to > self._evicted_to:
            self._context.remove(self._evicted_to, evicted_to, stream=self._stream)
            self._evicted_to = evicted_to
        self._batch.fill_inputs(inputs, self.length, n_wanted=n_wanted, stream=self._stream)
        self._context.decode(self._batch)
        self.length += len(inputs)
