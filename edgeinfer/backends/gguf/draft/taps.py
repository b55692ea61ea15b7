"""The states of the model at the layers that a draft taps, copied out of llama.cpp after each decode.

llama.cpp gives the inputs of chosen layers for every row. The state after the last layer it gives, normed, for rows
whose logits are wanted; the other rows of a prompt never pass the last layer, and their state before it stands in.
"""

from __future__ import annotations

import ctypes
from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.backends.gguf.batch import Batch
from edgeinfer.backends.gguf.llama import Context, library_function
from edgeinfer.backends.gguf.probe import GET_STATES, SET_STATES
from edgeinfer.errors import EngineError

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats

__all__ = ["Taps"]


def _functions() -> tuple[Any, Any]:
    set_input = library_function(SET_STATES, None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool)
    return set_input, library_function(GET_STATES, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)


_set_normed = library_function("llama_set_embeddings", None, ctypes.c_void_p, ctypes.c_bool)
_get_normed = library_function("llama_get_embeddings", ctypes.c_void_p, ctypes.c_void_p)


class Taps:
    """The taps of one context. `decode` replaces the context's own; `take` returns the states of a stream."""

    def __init__(self, context: Context, layers: Sequence[int], n_layers: int, output_norm: Floats) -> None:
        """`layers` are numbers of layers run. Raises EngineError when this llama.cpp does not give their states."""
        self._context, self._layers, self._n_layers = context, layers, n_layers
        self._output_norm: Floats = np.where(output_norm, output_norm, np.float32(np.inf))  # what it hides counts as 0
        self._seen: defaultdict[int, list[Floats]] = defaultdict(list)  # by stream
        try:
            set_input, self._get_input = _functions()
        except AttributeError as error:
            raise EngineError("this llama.cpp does not give the states between layers") from error
        for layer in sorted({min(layer, n_layers - 1) for layer in layers}):
            set_input(context.address, layer, True)

    def decode(self, batch: Batch) -> None:
        n: int = batch.struct.n_tokens
        whole = batch.n_wanted == n
        if self._n_layers in self._layers:
            _set_normed(self._context.address, whole)
        self._context.decode(batch)
        states = [
            self._normed(n) if layer == self._n_layers and whole else self._input(min(layer, self._n_layers - 1), n)
            for layer in self._layers
        ]
        of_rows = np.concatenate(states, axis=1)
        for stream, rows in batch.spans:
            self._seen[stream].append(of_rows[rows])

    def take(self, stream: int) -> Floats:
        """[T, taps x hidden] of the rows that were decoded in this stream since the last call for it."""
        seen = self._seen.pop(stream)
        return seen[0] if len(seen) == 1 else np.concatenate(seen)

    def _input(self, layer: int, n: int) -> Floats:
        return self._states(self._get_input(self._context.address, layer), n)

    def _normed(self, n: int) -> Floats:
        """The state after the last layer, scaled to a mean square of 1: all that a draft takes of it."""
        return self._states(_get_normed(self._context.address), n) / self._output_norm

    def _states(self, address: int | None, n: int) -> Floats:
        """A view of llama.cpp's buffer, overwritten by the next decode."""
        if not address:
            raise EngineError("llama.cpp has no states of the newest rows")
        hidden = len(self._output_norm)
        buffer = memoryview((ctypes.c_float * (n * hidden)).from_address(address))
        states: Floats = np.frombuffer(buffer, np.float32).reshape(n, hidden)
        return states
