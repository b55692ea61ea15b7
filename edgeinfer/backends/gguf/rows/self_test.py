"""Whether ggml's products of several F16 rows have the bits of single rows, in this process."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from edgeinfer.backends.gguf.arena import arena
from edgeinfer.backends.gguf.llama import base_function, library_function

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]

__all__ = ["multiply", "self_test"]

_F32, _F16 = 0, 1  # enum ggml_type
_ROWS: Final = (2, 3, 4, 5, 6, 7, 13, 16)
_SIZES: Final = ((32, 576), (33, 64), (24, 200), (8, 2048))  # rows of the matrix, values of a row
_ARENA_BYTES: Final = 4 << 20


def self_test() -> str:
    """What is wrong; "" if nothing is. Takes some milliseconds."""
    random = np.random.default_rng(0)
    for n_rows, n_values in _SIZES:
        matrix = random.standard_normal((n_rows, n_values)).astype(np.float16)
        inputs = random.standard_normal((max(_ROWS), n_values)).astype(np.float32)
        single = np.concatenate([multiply(matrix, inputs[n : n + 1], n_threads=1) for n in range(max(_ROWS))])
        for n in _ROWS:
            for n_threads in (1, 2):
                if not np.array_equal(multiply(matrix, inputs[:n], n_threads=n_threads), single[:n]):
                    return f"{n} rows of {n_values} values do not equal single rows ({n_threads} threads)"
    return ""


def multiply(matrix: npt.NDArray[np.float16], inputs: Floats, *, n_threads: int) -> Floats:
    """ggml's product: `inputs` (n, values) times `matrix` (rows, values), as (n, rows)."""
    pointer = ctypes.c_void_p
    tensor = base_function("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    data = base_function("ggml_get_data", pointer, pointer)
    with arena(_ARENA_BYTES) as context:
        left = tensor(context, _F16, matrix.shape[1], matrix.shape[0])
        right = tensor(context, _F32, inputs.shape[1], inputs.shape[0])
        product = base_function("ggml_mul_mat", pointer, pointer, pointer, pointer)(context, left, right)
        graph = base_function("ggml_new_graph", pointer, pointer)(context)
        base_function("ggml_build_forward_expand", None, pointer, pointer)(graph, product)
        ctypes.memmove(data(left), matrix.ctypes.data, matrix.nbytes)
        ctypes.memmove(data(right), inputs.ctypes.data, inputs.nbytes)
        compute = library_function("ggml_graph_compute_with_ctx", ctypes.c_int, pointer, pointer, ctypes.c_int)
        compute(context, graph, n_threads)
        found = np.empty((inputs.shape[0], matrix.shape[0]), np.float32)
        ctypes.memmove(found.ctypes.data, data(product), found.nbytes)
    return found
