"""Contexts that share one memory of keys and values."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Final

from edgeinfer.backends.gguf.exit.graph import Carried, ExitGraph, Stage
from edgeinfer.backends.gguf.exit.layout import TensorLayout, set_word, word
from edgeinfer.backends.gguf.llama import Batch, C, Context, ContextOptions, LoadedModel
from edgeinfer.errors import EngineFailed
from edgeinfer.types import Tokens

MAX_ROWS: Final = 16  # rows of one verification
_SMALLEST: Final = 256  # cells of a lane's own memory, which is never used: the fewest that llama.cpp makes
_SCANNED_BYTES: Final = 512  # of llama_context; its memory pointer was found at 272 in llama-cpp-python 0.3.36


def _memory_slot(context: Context) -> int:
    """The address at which a llama_context keeps the pointer that llama_get_memory gives."""
    base = ctypes.cast(context.handle, ctypes.c_void_p).value or 0
    memory = ctypes.cast(C.llama_get_memory(context.handle), ctypes.c_void_p).value
    slots = [base + at for at in range(0, _SCANNED_BYTES, 8) if word(base + at) == memory]
    if not memory or len(slots) != 1:
        raise EngineFailed(f"this llama.cpp keeps a context's memory in another way ({len(slots)} places fit)")
    return slots[0]


class Lane:
    """A context with a graph of its own over the memory of `owner`. Close it before the owner."""

    def __init__(self, model: LoadedModel, options: ContextOptions, owner: Context, graph: ExitGraph) -> None:
        self.graph = graph
        self.batch = Batch(options.n_batch)
        self.context = Context(model, replace(options, slots=_SMALLEST, cb_eval=graph.on_node))
        self._slot = 0
        try:
            slot = _memory_slot(self.context)
            self._memory = word(slot)
            set_word(slot, word(_memory_slot(owner)))
            self._slot = slot
            graph.attach(self.context)
            # Its first graph takes as long as four rounds of a small model: built now, computing nothing.
            self.run([0] * min(2, options.n_batch), 0, Stage.NONE)
            owner.remove(0)
        except BaseException:
            self.close()
            raise

    def run(self, tokens: Tokens, position: int, stage: Stage, *, row: int = 0) -> bool:
        """See ExitGraph.run."""
        n = len(tokens)
        self.batch.fill(tokens, position, n_wanted=n)
        return self.graph.run(self.context, self.batch, stage, row=row, n_rows=n)

    def close(self) -> None:
        if self._slot:  # llama_free frees the memory that it finds: its own
            set_word(self._slot, self._memory)
            self._slot = 0
        self.context.close()


class ExitLanes:
    """The drafting and the verifying lane of one conversation, beside `owner`, its plain context."""

    def __init__(
        self, model: LoadedModel, options: ContextOptions, owner: Context, exit_layer: int, layout: TensorLayout
    ) -> None:
        rows = min(MAX_ROWS, options.n_batch)
        self.n_rows = rows
        self.owner = owner
        carried = Carried(rows, model.hidden)

        def lane(n_batch: int) -> Lane:
            graph = ExitGraph(layout, exit_layer, model.n_layers, carried)
            return Lane(model, replace(options, n_batch=n_batch, n_outputs=n_batch), owner, graph)

        self._draft = lane(1)
        try:
            self._verify = lane(rows)
        except BaseException:
            self._draft.close()
            raise

    def draft(self, token: int, position: int, row: int) -> Context:
        """Early layers, norm and head for `token` at `position`, `row` of the round; its logits are row 0."""
        self._draft.run([token], position, Stage.DRAFT, row=row)
        return self._draft.context

    def front(self, tokens: Tokens, position: int, row: int) -> None:
        """The early layers alone."""
        lane = self._draft if len(tokens) == 1 else self._verify
        lane.run(tokens, position, Stage.FRONT, row=row)

    def back(self, tokens: Tokens, position: int) -> Context:
        """The other layers for rows 0, 1, ... of the round, which the early layers have seen at `position`."""
        self.owner.remove(position)  # the same cells are taken again, with the early layers' keys in them
        if not self._verify.run(tokens, position, Stage.BACK):
            self.owner.remove(position)
            return self.whole(tokens, position)
        return self._verify.context

    def whole(self, tokens: Tokens, position: int) -> Context:
        """All layers. In this lane, so that the plain one keeps its graph of one row."""
        self._verify.run(tokens, position, Stage.WHOLE)
        return self._verify.context

    def close(self) -> None:
        self._draft.close()
        self._verify.close()
