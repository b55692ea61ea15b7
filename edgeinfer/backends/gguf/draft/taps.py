"""The states of the model at the layers that a draft taps, copied out of llama.cpp after each decode.

llama.cpp gives the inputs of chosen layers for every row. The state after the last layer it gives, normed, for rows
whose logits are wanted; the other rows of a prompt never pass the last layer, and their state before it stands in.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeinfer.backends.gguf.llama import Batch, C, Context, library_function
from edgeinfer.backends.gguf.probe import GET_STATES, SET_STATES
from edgeinfer.errors import EngineError

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats

__all__ = ["Taps"]


def _functions() -> tuple[Any, Any]:
    set_input = library_function(SET_STATES, None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_bool)
    return set_input, library_function(GET_STATES, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint32)


class Taps:
    """The taps of one context. `decode` replaces the context's own; `take` returns the states since its last call."""

    def __init__(self, context: Context, layers: Sequence[int], n_layers: int, output_norm: Floats) -> None:
        """`layers` are numbers of layers run. Raises EngineError when this llama.cpp does not give their states."""
        self._context, self._layers, self._n_layers = context, layers, n_layers
        self._output_norm: Floats = np.where(output_norm, output_norm, np.float32(np.inf))  # what it hides counts as 0
        self._seen: list[Floats] = []
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
            C.llama_set_embeddings(self._context.handle, whole)
        self._context.decode(batch)
        states = [
            self._normed(n) if layer == self._n_layers and whole else self._input(min(layer, self._n_layers - 1), n)
            for layer in self._layers
        ]
        self._seen.append(np.concatenate(states, axis=1))

    def take(self) -> Floats:
        """[T, taps x hidden] of the rows that were decoded since the last call."""
        seen = np.concatenate(self._seen) if self._seen else np.zeros((0, 0), np.float32)
        self._seen = []
        return seen

    def _input(self, layer: int, n: int) -> Floats:
        return self._copied(self._get_input(self._context.address, layer), n)

    def _normed(self, n: int) -> Floats:
        """The state after the last layer, scaled to a mean square of 1: all that a draft takes of it."""
        address = ctypes.cast(C.llama_get_embeddings(self._context.handle), ctypes.c_void_p).value
        return self._copied(address, n) / self._output_norm

    def _copied(self, address: int | None, n: int) -> Floats:
        if not address:
            raise EngineError("llama.cpp has no states of the newest rows")
        hidden = len(self._output_norm)
        rows = np.ctypeslib.as_array((ctypes.c_float * (n * hidden)).from_address(address))
        return rows.reshape(n, hidden).copy()
