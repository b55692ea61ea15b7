"""The tables of metal_kernels/README.md are what `python -m benchmarks traffic` prints, from the layout of the ring."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import traffic
from edgeinfer.bench.kernel_shapes import SHAPES

README = Path(__file__).parents[2] / "metal_kernels" / "README.md"


def test_the_readme_holds_the_tables() -> None:
    assert traffic.report() in README.read_text(encoding="utf-8"), "run: python -m benchmarks traffic"


@pytest.mark.parametrize(("head_dim", "bits", "expected"), [(64, 16, 256), (64, 8, 136), (80, 4, 96), (128, 8, 272)])
def test_bytes_of_a_ring_row(head_dim: int, bits: int, expected: int) -> None:
    assert traffic.row_bytes(head_dim, bits) == expected


def test_row_bytes_are_those_of_the_layout() -> None:
    mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
    from edgeinfer.backends.mlx.kernels import RingLayout

    for head_dim in (64, 80, 96, 128, 256, 512):
        for bits in (4, 8, 16):
            layout = RingLayout(head_dim, bits, mx.float16)
            assert traffic.row_bytes(head_dim, bits) == layout.row_bytes
            assert layout.empty(2, 10).nbytes == 20 * layout.row_bytes


def test_bytes_of_the_products_of_a_layer() -> None:
    """Llama-3.2-1B by hand: 60.8 M weights a layer at 4.5 bits, and rows of q, k, v (3072), o, gate and up, down."""
    shape = SHAPES[0]
    n_weights = 2048 * (2048 + 2 * 512) + 2048 * 2048 + 3 * 2048 * 8192
    rows = 2 * 5 * ((2048 + 3072) + (2048 + 2048) + (2048 + 16384) + (8192 + 2048))
    assert traffic.product_bytes(shape, 5, once=True) == n_weights * 9 // 16 + rows
    assert traffic.product_bytes(shape, 5, once=False) == 5 * (n_weights * 9 // 16) + rows
