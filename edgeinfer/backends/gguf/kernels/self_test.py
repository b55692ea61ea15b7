"""Whether edgeinfer's kernels give the bits of ggml's, in this process."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from edgeinfer.backends.gguf.arena import arena
from edgeinfer.backends.gguf.llama import base_function, library_function

if TYPE_CHECKING:
    import numpy.typing as npt

    Floats: TypeAlias = npt.NDArray[np.float32]
    Bytes: TypeAlias = npt.NDArray[np.uint8]

__all__ = ["BLOCK_TYPES", "BlockType", "multiply", "multiply_singly", "random_matrix", "self_test"]

_F32, _F16, _Q4_0, _Q4_K = 0, 1, 2, 12  # enum ggml_type
_REPACKED_ARGUMENTS: Final = (
    ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
)  # fmt: skip
_ROWS: Final = (2, 3, 4, 5, 6, 7, 13, 16)
_SIZES: Final = ((32, 576), (33, 64), (24, 200), (8, 2048))  # rows of the matrix, values of a row
_ARENA_BYTES: Final = 4 << 20
_REPACKED_ROWS: Final = (1, 4, 8, 12)  # one, or fours
_REPACKED_SIZES: Final = ((8, 32), (16, 96), (40, 576), (72, 64))
_BLOCK: Final = 32  # values of a block of Q4_0, Q4_1 and Q8_0
_BLOCK_CASES: Final = ((1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (9, 2))  # rows, threads
_BLOCK_SIZES: Final = ((33, 3), (16, 1), (40, 18))  # rows of the matrix, blocks of a row
_SUPER_BLOCK: Final = 256  # values of a block of Q4_K, Q5_K, Q6_K and of their inputs
_SUPER_SIZES: Final = ((8, 256), (24, 512), (72, 1024))
_SUPER_INPUT_BYTES: Final = 292  # of a block of an input
_DOT_ARGUMENTS: Final = (
    ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t,
    ctypes.c_int
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BlockType:
    """A type of matrices that are multiplied as the file holds them, in blocks: scales of 16 bits, and other bytes."""

    name: str
    ggml_type: int
    inputs: str  # the type of the inputs
    n_scales: int
    n_bytes: int  # of the others
    scales_last: bool = False
    n_values: int = _BLOCK
    input_bytes: int = 36  # of a block of an input, at most


BLOCK_TYPES: Final[Mapping[str, BlockType]] = {
    "Q4_1": BlockType("q4_1", 3, "q8_1", n_scales=2, n_bytes=16),
    "Q8_0": BlockType("q8_0", 8, "q8_0", n_scales=1, n_bytes=32),
    "Q5_K": BlockType("q5_K", 13, "q8_K", 2, 172, n_values=_SUPER_BLOCK, input_bytes=_SUPER_INPUT_BYTES),
    "Q6_K": BlockType(
        "q6_K", 14, "q8_K", 1, 208, scales_last=True, n_values=_SUPER_BLOCK, input_bytes=_SUPER_INPUT_BYTES
    ),
}


def self_test(name: str, library: ctypes.CDLL) -> str:
    """What is wrong with the kernel for matrices of this type; "" if nothing is. Takes some milliseconds."""
    match name:
        case "F16":
            return _test_f16()
        case "Q4_0":
            return _test_q4_0(library)
        case "Q4_K":
            return _test_q4_k(library)
        case _:
            return _test_blocks(BLOCK_TYPES[name])


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
    library.edgeinfer_repacked.argtypes = (ctypes.c_int, *_REPACKED_ARGUMENTS)
    for n_rows, n_values in _REPACKED_SIZES:
        matrix = _random_blocks(random, n_rows // 8 * n_values // _BLOCK, n_scales=8, n_bytes=4 * _BLOCK)
        for n in _REPACKED_ROWS:
            in_turn = min(n, 4)
            n_blocks = n // in_turn * n_values // _BLOCK
            inputs = _random_blocks(random, n_blocks, n_scales=in_turn, n_bytes=in_turn * _BLOCK)
            name = "ggml_gemv_q4_0_8x8_q8_0" if n == 1 else "ggml_gemm_q4_0_8x8_q8_0"
            expected, found = (np.full((n, n_rows), np.nan, np.float32) for _ in range(2))
            ours = partial(library.edgeinfer_repacked, _Q4_0)
            for multiply, out in (library_function(name, None, *_REPACKED_ARGUMENTS), expected), (ours, found):
                multiply(n_values, out.ctypes.data, n_rows, matrix.ctypes.data, inputs.ctypes.data, n, n_rows)
            if found.tobytes() != expected.tobytes():
                return f"{n} rows of {n_values} values do not equal those of ggml"
    return ""


def _test_q4_k(library: ctypes.CDLL) -> str:
    """Single rows and groups of four have the bits that ggml's function for a single row gives."""
    random = np.random.default_rng(0)
    library_function("ggml_cpu_init", None)()  # fills the table of 16-bit floats
    arguments = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    quantize = library_function("quantize_row_q8_K", None, *arguments)
    library.edgeinfer_quantize_four.argtypes = arguments
    gemv = library_function("ggml_gemv_q4_K_8x8_q8_K", None, *_REPACKED_ARGUMENTS)
    library.edgeinfer_repacked.argtypes = (ctypes.c_int, *_REPACKED_ARGUMENTS)
    for n_rows, n_values in _SUPER_SIZES:
        n_blocks = n_values // _SUPER_BLOCK
        matrix = _random_blocks(random, n_rows // 8 * n_blocks, n_scales=16, n_bytes=8 * (12 + _SUPER_BLOCK // 2))
        inputs = random.standard_normal((max(_REPACKED_ROWS), n_values)).astype(np.float32)
        inputs[::3] = np.sign(inputs[::3])  # the sign of the scale then follows the first of equals
        expected, found = (np.full((len(inputs), n_rows), np.nan, np.float32) for _ in range(2))
        blocks, fours = (np.zeros((len(inputs), n_blocks * _SUPER_INPUT_BYTES), np.uint8) for _ in range(2))
        for row, block, out in zip(inputs, blocks, expected, strict=True):
            quantize(row.ctypes.data, block.ctypes.data, n_values)
            gemv(n_values, out.ctypes.data, n_rows, matrix.ctypes.data, block.ctypes.data, 1, n_rows)
        for row in range(0, len(inputs), 4):
            library.edgeinfer_quantize_four(inputs[row:].ctypes.data, fours[row:].ctypes.data, n_values)
        for n in _REPACKED_ROWS:
            data = (blocks if n == 1 else fours).ctypes.data
            library.edgeinfer_repacked(_Q4_K, n_values, found.ctypes.data, n_rows, matrix.ctypes.data, data, n, n_rows)
            if found[:n].tobytes() != expected[:n].tobytes():
                return f"{n} rows of {n_values} values do not equal those of ggml"
    return ""


def _test_blocks(kind: BlockType) -> str:
    """The products of random blocks have the bits that ggml's function for two rows gives."""
    random = np.random.default_rng(0)
    for n_rows, n_blocks in _BLOCK_SIZES:
        matrix = random_matrix(random, kind, n_rows, n_blocks)
        n_values = n_blocks * kind.n_values
        inputs = random.standard_normal((max(_BLOCK_CASES)[0], n_values)).astype(np.float32)
        expected = multiply_singly(kind, matrix, inputs)
        for n, n_threads in _BLOCK_CASES:
            found = multiply(matrix, inputs[:n], ggml_type=kind.ggml_type, n_threads=n_threads)
            if found.tobytes() != expected[:n].tobytes():
                return f"{n} rows of {n_values} values do not equal those of ggml ({n_threads} threads)"
    return ""


def multiply_singly(kind: BlockType, matrix: Bytes, inputs: Floats) -> Floats:
    """What ggml's function for two rows gives for each row of `inputs` (n, values) and `matrix` (rows, bytes)."""
    library_function("ggml_cpu_init", None)()  # fills the table of 16-bit floats
    quantize = library_function(f"quantize_row_{kind.inputs}", None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)
    dot = library_function(f"ggml_vec_dot_{kind.name}_{kind.inputs}", None, *_DOT_ARGUMENTS)
    found = np.empty((len(inputs), len(matrix)), np.float32)
    blocks = np.empty(inputs.shape[1] // kind.n_values * kind.input_bytes, np.uint8)
    for row, products in zip(np.ascontiguousarray(inputs), found, strict=True):
        quantize(row.ctypes.data, blocks.ctypes.data, row.size)
        for index, weights in enumerate(matrix):
            out = products[index:].ctypes.data
            dot(row.size, out, 0, weights.ctypes.data, 0, blocks.ctypes.data, 0, 1)
    return found


def random_matrix(random: np.random.Generator, kind: BlockType, n_rows: int, n_blocks: int) -> Bytes:
    """Rows of blocks of this type."""
    blocks = _random_blocks(random, n_rows * n_blocks, n_scales=kind.n_scales, n_bytes=kind.n_bytes)
    if kind.scales_last:
        blocks = np.roll(blocks, -2 * kind.n_scales, axis=1)
    return np.ascontiguousarray(blocks.reshape(n_rows, -1))


def _random_blocks(random: np.random.Generator, n: int, *, n_scales: int, n_bytes: int) -> Bytes:
    """Blocks as ggml lays them out: scales of 16 bits, then values of 4 or 8."""
    scales = random.standard_normal((n, n_scales)).astype(np.float16)
    values = random.integers(0, 256, (n, n_bytes), np.uint8)
    values[values == 128] = 0  # an input in 8 bits is never -128
    return np.ascontiguousarray(np.hstack((scales.view(np.uint8), values)))


def multiply(
    matrix: npt.NDArray[np.float16] | Bytes, inputs: Floats, *, ggml_type: int = _F16, n_threads: int
) -> Floats:
    """ggml's product: `inputs` (n, values) times `matrix` (rows, values or the bytes of blocks), as (n, rows)."""
    pointer = ctypes.c_void_p
    tensor = base_function("ggml_new_tensor_2d", pointer, pointer, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    data = base_function("ggml_get_data", pointer, pointer)
    with arena(_ARENA_BYTES) as context:
        left = tensor(context, ggml_type, inputs.shape[1], matrix.shape[0])
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
