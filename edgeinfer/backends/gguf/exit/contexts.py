"""llama.cpp contexts that share one K/V memory: see README.md, trick 2."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Final

from edgeinfer.backends.gguf.batch import Batch
from edgeinfer.backends.gguf.exit.graph import ExitGraph, ExitStates, Stage
from edgeinfer.backends.gguf.exit.layout import TensorLayout, read_pointer, write_pointer
from edgeinfer.backends.gguf.llama import C, Context, ContextOptions, LlamaModel
from edgeinfer.errors import EngineError
from edgeinfer.types import Tokens

MAX_ROWS: Final = 16  # rows of one verification
_FEWEST_CELLS: Final = 256  # cells of a context's own memory, which is never used; llama.cpp allocates at least these
_SCANNED_BYTES: Final = 512  # of llama_context; its memory pointer was found at 272 in llama-cpp-python 0.3.36


def _memory_slot(context: Context) -> int:
    """The address at which a llama_context keeps the pointer that llama_get_memory gives."""
    base = ctypes.cast(context.handle, ctypes.c_void_p).value or 0
    memory = ctypes.cast(C.llama_get_memory(context.handle), ctypes.c_void_p).value
    slots = [base + at for at in range(0, _SCANNED_BYTES, 8) if read_pointer(base + at) == memory]
    if not memory or len(slots) != 1:
        raise EngineError(f"cannot find the memory pointer of a context in this llama.cpp ({len(slots)} candidates)")
    return slots[0]


class SharedContext:
    """A context with a graph of its own over the K/V memory of `owner`. Close it before the owner.

    Each decode is of one of the owner's streams. Its graph is that of one stream, so it is opened as unified, which
    takes the fewest cells.

    The constructor overwrites the memory pointer inside the C++ object. A wrong address here corrupts the process
    before the self-test can report anything, so the slot must be unique, and `close` puts the pointer back.
    """

    def __init__(self, model: LlamaModel, options: ContextOptions, owner: Context, graph: ExitGraph) -> None:
        self.graph = graph
        self.batch = Batch(options.n_batch)
        self.context = Context(model, replace(options, slots=_FEWEST_CELLS, unified=True, cb_eval=graph.on_node))
        self._slot = 0
        try:
            slot = _memory_slot(self.context)
            self._memory = read_pointer(slot)
            write_pointer(slot, read_pointer(_memory_slot(owner)))
            self._slot = slot
            graph.attach(self.context)
            # Building the first graph takes as long as four rounds of a small model: build it now, compute nothing.
            self.run([0] * min(2, options.n_batch), 0, Stage.NONE)
            owner.remove(0)
        except BaseException:
            self.close()
            raise

    def run(self, tokens: Tokens, position: int, stage: Stage, *, row: int = 0, stream: int = 0) -> bool:
        """See ExitGraph.run."""
        n = len(tokens)
        self.batch.fill(tokens, position, n_wanted=n, stream=stream)
        return self.graph.run(self.context, self.batch, stage, row=row, n_rows=n)

    def close(self) -> None:
        if self._slot:  # llama_free frees the memory it finds, so put its own back
            write_pointer(self._slot, self._memory)
            self._slot = 0
        self.context.close()


class ExitContexts:
    """The drafting and the verifying context of the conversations in the streams of `owner`, the plain context.

    They hold the states of the newest drafts. A round whose states another conversation has overwritten finds that its
    K/V cells are not those of the drafts, and runs whole.
    """

    def __init__(
        self, model: LlamaModel, options: ContextOptions, owner: Context, exit_layer: int, layout: TensorLayout
    ) -> None:
        rows = min(MAX_ROWS, options.n_batch)
        self.n_rows = rows
        self.owner = owner
        states = ExitStates(rows, model.hidden)

        def shared(n_batch: int) -> SharedContext:
            graph = ExitGraph(layout, exit_layer, model.n_layers, states)
            return SharedContext(model, replace(options, n_batch=n_batch, n_outputs=n_batch), owner, graph)

        self._draft = shared(1)
        try:
            self._verify = shared(rows)
        except BaseException:
            self._draft.close()
            raise

    def draft(self, token: int, position: int, row: int, *, stream: int) -> Context:
        """Early layers, norm and head for `token` at `position`, `row` of the round; its logits are row 0."""
        self._draft.run([token], position, Stage.DRAFT, row=row, stream=stream)
        return self._draft.context

    def early(self, tokens: Tokens, position: int, row: int, *, stream: int) -> None:
        """The early layers alone."""
        context = self._draft if len(tokens) == 1 else self._verify
        context.run(tokens, position, Stage.EARLY, row=row, stream=stream)

    def late(self, tokens: Tokens, position: int, *, stream: int) -> Context:
        """The late layers for rows 0, 1, ... of the round. The early layers have run for them at `position`."""
        self.owner.remove(position, stream=stream)  # llama.cpp takes the same cells again, with the early layers' keys
        if not self._verify.run(tokens, position, Stage.LATE, stream=stream):
            self.owner.remove(position, stream=stream)
            return self.whole(tokens, position, stream=stream)
        return self._verify.context

    def whole(self, tokens: Tokens, position: int, *, stream: int) -> Context:
        """All layers. The plain context is not used, so that it keeps its graph of one row."""
        self._verify.run(tokens, position, Stage.WHOLE, stream=stream)
        return self._verify.context

    def close(self) -> None:
        self._draft.close()
        self._verify.close()
