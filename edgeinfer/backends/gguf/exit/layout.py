"""Where a ggml_tensor stores its flags, sources and data, measured on tensors made for this purpose."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any, Final

from edgeinfer.backends.gguf.arena import arena
from edgeinfer.backends.gguf.llama import base_function
from edgeinfer.errors import EngineError

_ARENA_BYTES: Final = 1 << 20
_F32: Final = 0


@dataclass(frozen=True, slots=True)
class TensorLayout:
    """Byte offsets in `struct ggml_tensor` (ggml.h), and the flag bit without which the scheduler skips a node."""

    flags: int
    compute: int
    sources: int
    n_sources: int
    data: int


def read_pointer(address: int) -> int:
    """The pointer stored at `address`. A wrong address crashes the process."""
    return ctypes.c_void_p.from_address(address).value or 0


def write_pointer(address: int, value: int) -> None:
    """Store a pointer at `address`. A wrong address corrupts the process, at once or much later."""
    ctypes.c_void_p.from_address(address).value = value


def find_layout() -> TensorLayout:
    """Raises EngineError when a field is not found in exactly one place."""
    with arena(_ARENA_BYTES) as made:
        return _measure(made)


def _measure(context: int) -> TensorLayout:
    pointer, size = ctypes.c_void_p, ctypes.c_size_t
    tensor = base_function("ggml_new_tensor_1d", pointer, pointer, ctypes.c_int, ctypes.c_int64)
    left, right = tensor(context, _F32, 8), tensor(context, _F32, 8)
    total = base_function("ggml_add", pointer, pointer, pointer, pointer)(context, left, right)
    view = base_function("ggml_view_1d", pointer, pointer, pointer, ctypes.c_int64, size)(context, left, 4, 0)
    graph = base_function("ggml_new_graph", pointer, pointer)(context)
    data = base_function("ggml_get_data", pointer, pointer)(left)
    n_bytes = data - left  # a tensor's elements follow it in the arena
    if not 128 <= n_bytes <= 1024:
        raise EngineError(f"cannot measure the tensors of this ggml ({n_bytes} bytes each)")

    pairs = {at: (read_pointer(total + at), read_pointer(total + at + 8)) for at in _words(n_bytes - 8)}
    sources = _only([at for at, pair in pairs.items() if pair == (left, right)])
    # a view names its parent twice: as its first source, and right after the sources
    parents = [at for at in _words(n_bytes) if read_pointer(view + at) == left and at > sources]
    base_function("ggml_set_name", pointer, pointer, ctypes.c_char_p)(
        total, b"total"
    )  # otherwise the graph would name it
    before = ctypes.string_at(total, n_bytes)
    base_function("ggml_build_forward_expand", None, pointer, pointer)(graph, total)
    after = ctypes.string_at(total, n_bytes)
    flags = _only([at for at in range(0, n_bytes, 4) if before[at : at + 4] != after[at : at + 4]])
    return TensorLayout(
        flags=flags,
        compute=int.from_bytes(after[flags : flags + 4], "little")
        & ~int.from_bytes(before[flags : flags + 4], "little"),
        sources=sources,
        n_sources=(_only(parents) - sources) // 8,
        data=_only([at for at in _words(n_bytes) if read_pointer(left + at) == data]),
    )


def _words(n_bytes: int) -> range:
    return range(0, n_bytes - 7, 8)


def _only(found: list[Any]) -> Any:
    if len(found) != 1:
        raise EngineError(f"cannot measure the tensors of this ggml ({len(found)} candidates for a field)")
    return found[0]
