"""The tables of metal_kernels/README.md are what `python -m benchmarks traffic` prints, from the layout of the ring."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import traffic

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
