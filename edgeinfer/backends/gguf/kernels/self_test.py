"""Whether edgeinfer's kernels give the bits of ggml's, in this process."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from edgeinfer.backends.gguf.arena import arena
from edgeinfer.backends.gguf.llama import base_function, library_function

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]
    Bytes: TypeAlias = npt.NDArray[np.uint8]

__all__ = ["multiply", "self_test"]

_F32, _F16 = 0, 1  # enum ggml_type
_REPACKED_ARGUMENTS: Final = (
    ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
)  # fmt: skip
_ROWS: Final = (2, 3, 4, 5, 6, 7, 13, 16)
_SIZES: Final = ((32, 576), (33, 64), (24, 200), (8, 2048))  # rows of the matrix, values of a row
_ARENA_BYTES: Final = 4 << 20
_REPACKED_ROWS: Final = (1, 4, 8, 12)  # one, or fours
_REPACKED_SIZES: Final = ((8, 32), (16, 96), (40, 576), (72, 64))
_BLOCK: Final = 32  # values of a block of Q4_0 and of Q8_0


def self_test(name: str, library: ctypes.CDLL) -> str:
    """What is wrong with the kernel for matrices of this type; "" if nothing is. Takes some milliseconds."""
    return _test_f16() if name == "F16" else _test_q4_0(library)


def _test_f16() -> str:
    """Several rows have the bits of single ones, which ggml's own kernel multiplies."""
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


def _test_q4_0(library: ctypes.CDLL) -> str:
    """The products of random blocks have the bits that ggml's function gives when it is called directly."""
    random = np.random.default_rng(0)
    library_function("ggml_cpu_init", None)()  # fills the table of 16-bit floats
    for n_rows, n_values in _REPACKED_SIZES:
        matrix = _random_blocks(random, n_rows // 8 * n_values // _BLOCK, n_scales=8, n_bytes=4 * _BLOCK)
        for n in _REPACKED_ROWS:
            in_turn = min(n, 4)
            n_blocks = n // in_turn * n_values // _BLOCK
            inputs = _random_blocks(random, n_blocks, n_scales=in_turn, n_bytes=in_turn * _BLOCK)
            name = "ggml_gemv_q4_0_8x8_q8_0" if n == 1 else "ggml_gemm_q4_0_8x8_q8_0"
            expected, found = (np.full((n, n_rows), np.nan, np.float32) for _ in range(2))
            for function, out in (library_function(name, None), expected), (library.edgeinfer_q4_0, found):
                function.argtypes = _REPACKED_ARGUMENTS
                function(n_values, out.ctypes.data, n_rows, matrix.ctypes.data, inputs.ctypes.data, n, n_rows)
            if found.tobytes() != expected.tobytes():
                return f"{n} rows of {n_values} values do not equal those of ggml"
    return ""


def _random_blocks(random: np.random.Generator, n: int, *, n_scales: int, n_bytes: int) -> Bytes:
    """Blocks as ggml lays them out: scales of 16 bits, then values of 4 or 8."""
    scales = random.standard_normal((n, n_scales)).astype(np.float16)
    values = random.integers(0, 256, (n, n_bytes), np.uint8)
    values[values == 128] = 0  # an input in 8 bits is never -128
    return np.ascontiguousarray(np.hstack((scales.view(np.uint8), values)))


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
