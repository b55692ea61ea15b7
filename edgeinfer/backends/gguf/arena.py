"""Memory of ggml for a few tensors of our own."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

from edgeinfer.backends.gguf.llama import base_function
from edgeinfer.errors import EngineError

__all__ = ["arena"]


class _InitParams(ctypes.Structure):
    _fields_ = (("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


@contextmanager
def arena(n_bytes: int) -> Iterator[int]:
    """A ggml context of `n_bytes`; a graph of default size takes 80 KiB of it. Raises EngineError."""
    made = base_function("ggml_init", ctypes.c_void_p, _InitParams)(_InitParams(n_bytes, None, False))
    if not made:
        raise EngineError("ggml has no memory for a few test tensors")
    try:
        yield made
    finally:
        base_function("ggml_free", None, ctypes.c_void_p)(made)
