"""A few rows times a quantized matrix. Formula, grid and traffic: metal_kernels/rows_matmul.metal."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from edgeinfer.backends.mlx.kernels.launch import Launch, Launcher

__all__ = ["MATMUL_ROWS", "Matrix", "rows_matmul_kernel", "rows_matmul_twin"]

MATMUL_ROWS = range(2, 9)
SIMD_GROUPS = 4
OUTS = 4  # outputs that a SIMD group computes at once
TILE = 512  # values of each row in threadgroup memory: 16 KiB for 8 rows of float32


@dataclass(frozen=True, slots=True, eq=False)
class Matrix:
    """`codes` [N, K * bits / 32] uint32 with `scales`, `biases` [N, K / group] (mlx.core.quantize, affine)."""

    codes: mx.array
    scales: mx.array
    biases: mx.array
    bits: int
    group: int

    @property
    def n_outs(self) -> int:
        return int(self.codes.shape[0])

    @property
    def width(self) -> int:
        return int(self.codes.shape[1]) * 32 // self.bits


def rows_matmul_kernel(x: mx.array, matrix: Matrix, launch: Launcher) -> mx.array | None:
    """x [M, K] -> [M, N] of x's dtype; None when it cannot serve."""
    n_rows, width = x.shape
    known = x.dtype in (mx.float32, mx.float16, mx.bfloat16)
    fits = n_rows in MATMUL_ROWS and width == matrix.width and width % matrix.group == 0
    if not (known and fits and matrix.bits in (4, 8) and matrix.group in (32, 64, 128)):
        return None
    threadgroups = -(-matrix.n_outs // (SIMD_GROUPS * OUTS))
    (y,) = launch(
        Launch(
            "rows_matmul",
            inputs=(
                x,
                matrix.codes,
                matrix.scales,
                matrix.biases,
                mx.array([width, matrix.n_outs], mx.int32),
            ),
            template=(
                ("T", x.dtype),
                ("BITS", matrix.bits),
                ("GS", matrix.group),
                ("M", n_rows),
                ("NS", SIMD_GROUPS),
                ("OUTS", OUTS),
                ("TILE", TILE),
            ),
            grid=(threadgroups * SIMD_GROUPS * 32, 1, 1),
            threadgroup=(SIMD_GROUPS * 32, 1, 1),
            output_shapes=((n_rows, matrix.n_outs),),
            output_dtypes=(x.dtype,),
        )
    )
    return y


def rows_matmul_twin(x: mx.array, matrix: Matrix) -> mx.array:
    """The same by MLX's own product, for any number of rows."""
    return mx.quantized_matmul(
        x, matrix.codes, scales=matrix.scales, biases=matrix.biases, group_size=matrix.group, bits=matrix.bits
    )
