"""The rows of a decode, in the arrays that llama.cpp reads."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.backends.gguf.llama import C
from edgeinfer.types import Tokens

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats

__all__ = ["Batch"]


class Batch:
    """Up to `capacity` rows. Filled in place, never freed while in use: llama.cpp reads these arrays only inside
    `decode`."""

    def __init__(self, capacity: int, *, hidden: int = 0) -> None:
        """With `hidden`, rows are embeddings [hidden] in place of tokens."""
        self.capacity = capacity
        self.hidden = hidden
        self.n_wanted = 0
        self.spans: list[tuple[int, slice]] = []  # streams, each with its rows
        self.tokens = np.zeros(capacity, np.int32)
        self._positions = np.zeros(capacity, np.int32)
        self._wanted = np.zeros(capacity, np.int8)
        self._steps = np.arange(capacity, dtype=np.int32)
        self._n_sequences = np.ones(capacity, np.int32)
        self._streams = np.zeros(capacity, np.int32)
        self._sequences = (ctypes.POINTER(ctypes.c_int32) * capacity)(
            *[ctypes.cast(self._streams[row:].ctypes.data, ctypes.POINTER(ctypes.c_int32)) for row in range(capacity)]
        )
        self.struct = C.llama_batch()
        self._inputs: Floats = np.zeros((capacity if hidden else 0, hidden), np.float32)
        if hidden:
            self.struct.embd = self._inputs.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        else:
            self.struct.token = self.tokens.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self.struct.pos = self._positions.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self.struct.n_seq_id = self._n_sequences.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self.struct.seq_id = ctypes.cast(self._sequences, type(self.struct.seq_id))
        self.struct.logits = self._wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def _place(self, n: int, position: int, *, n_wanted: int, stream: int) -> None:
        """Use the first `n` rows at `position`, `position` + 1, ... of one stream; only the last `n_wanted` give
        logits."""
        self.spans = [(stream, slice(0, n))]
        if n == 1:  # the plain decode step
            self._streams[0] = stream
            self._positions[0] = position
            self._wanted[0] = n_wanted
        else:
            self._streams[:n] = stream
            np.add(self._steps[:n], position, out=self._positions[:n])
            self._wanted[: n - n_wanted] = 0
            self._wanted[n - n_wanted : n] = 1
        self.struct.n_tokens = n
        self.n_wanted = n_wanted

    def fill(self, tokens: Tokens, position: int, *, n_wanted: int, stream: int = 0) -> None:
        n = len(tokens)
        if n == 1:
            self.tokens[0] = tokens[0]
        else:
            self.tokens[:n] = tokens
        self._place(n, position, n_wanted=n_wanted, stream=stream)

    def fill_inputs(self, inputs: Floats, position: int, *, n_wanted: int, stream: int) -> None:
        """inputs: [T, hidden]."""
        self._inputs[: len(inputs)] = inputs
        self._place(len(inputs), position, n_wanted=n_wanted, stream=stream)

    def add(self, tokens: Tokens, position: int, *, n_wanted: int, stream: int) -> None:
        """Rows of another stream, after those that `fill` and `add` have placed."""
        start: int = self.struct.n_tokens
        stop = start + len(tokens)
        self.spans.append((stream, slice(start, stop)))
        self.tokens[start:stop] = tokens
        self._streams[start:stop] = stream
        np.add(self._steps[: len(tokens)], position, out=self._positions[start:stop])
        self._wanted[start : stop - n_wanted] = 0
        self._wanted[stop - n_wanted : stop] = 1
        self.struct.n_tokens = stop
        self.n_wanted += n_wanted
