"""Bytes that a decoding step on MLX must read and write, by arithmetic: this project's kernels against MLX's own way.

Nothing here is measured. `python -m benchmarks traffic` prints the tables of metal_kernels/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

from edgeinfer.bench.kernel_shapes import SHAPES, SINK, WINDOWS, TimedShape
from edgeinfer.bench.report import table

__all__ = ["Kind", "add_arguments", "attention_bytes", "report", "row_bytes", "run", "step_bytes"]

WEIGHT_BITS = 4.5  # mlx-4bit-g64
PRODUCT_ROWS = 5  # a verify of four drafts


@dataclass(frozen=True, slots=True)
class Kind:
    """A way to keep K and V and to attend. `unpacked`: each step writes the ring in 16 bits and reads it again."""

    name: str
    bits: int
    unpacked: bool = False


TODAY = Kind("MLX, 16 bits", 16)
KINDS = (
    TODAY,
    Kind("MLX, 8 bits, unpacked each step", 8, unpacked=True),
    Kind("kernel, 16 bits", 16),
    Kind("kernel, 8 bits", 8),
    Kind("kernel, 4 bits", 4),
)


def row_bytes(head_dim: int, bits: int) -> int:
    """K and V of one position and KV head in a packed row (metal_kernels/ring.h)."""
    groups = -(-head_dim // 64) if bits < 16 else 0
    return 2 * (head_dim * bits // 8 + 4 * groups)


def attention_bytes(shape: TimedShape, kind: Kind, slots: int) -> int:
    """One layer's attention for one query row: K and V; q, the output and partial sums are below one percent."""
    packed = shape.n_kv_heads * slots * row_bytes(shape.head_dim, kind.bits)
    whole = shape.n_kv_heads * slots * row_bytes(shape.head_dim, 16)
    return packed + 2 * whole if kind.unpacked else packed


def pack_bytes(shape: TimedShape, bits: int) -> int:
    """One layer's new row: K and V read in 16 bits, the packed row written and copied into the ring."""
    return shape.n_kv_heads * (row_bytes(shape.head_dim, 16) + 3 * row_bytes(shape.head_dim, bits))


def head_bytes(shape: TimedShape, *, logits: bool) -> int:
    """The head's weights; logits are written in 16 bits, then read for the maximum and for the sum."""
    return round(shape.n_vocab * shape.width * WEIGHT_BITS / 8) + (3 * 2 * shape.n_vocab if logits else 0)


def product_bytes(shape: TimedShape, n_rows: int, *, once: bool) -> int:
    """One layer's products for `n_rows` rows: the weights once, or once for each row, as a kernel for single rows reads
    them; the rows before and after each product in 16 bits."""
    joined = shape.head_dim * (shape.n_heads + 2 * shape.n_kv_heads)
    sizes = [shape.width + joined, shape.head_dim * shape.n_heads + shape.width]
    sizes += [shape.width + 2 * shape.ffn, shape.ffn + shape.width]
    weights = round((n_weights(shape) - shape.n_vocab * shape.width) / shape.n_layers * WEIGHT_BITS / 8)
    return weights * (1 if once else n_rows) + 2 * n_rows * sum(sizes)


def n_weights(shape: TimedShape) -> int:
    """Weights that a step reads: attention, feed-forward and head; of the embedding one row."""
    attention = 2 * shape.width * shape.head_dim * (shape.n_heads + shape.n_kv_heads)
    return shape.n_layers * (attention + 3 * shape.width * shape.ffn) + shape.n_vocab * shape.width


def step_bytes(shape: TimedShape, kind: Kind, window: int) -> int:
    """Weights and attention of one decoded token."""
    weights = round(n_weights(shape) * WEIGHT_BITS / 8)
    return weights + shape.n_layers * attention_bytes(shape, kind, SINK + window)


def report() -> str:
    """Both tables as Markdown."""
    steps = [
        [
            f"{shape.name}, {window // 1024}k",
            f"{step_bytes(shape, TODAY, window) / 1e6:.0f} MB",
            *(f"{step_bytes(shape, kind, window) / step_bytes(shape, TODAY, window):.2f}" for kind in KINDS[1:]),
        ]
        for shape in SHAPES
        for window in WINDOWS
    ]
    kernels = [
        [
            f"{shape.name}, {window // 1024}k",
            *(f"{attention_bytes(shape, kind, SINK + window) / 1e6:.2f}" for kind in KINDS),
            f"{pack_bytes(shape, 8) / 1e3:.1f} kB",
            f"{head_bytes(shape, logits=True) / 1e6:.2f}",
            f"{head_bytes(shape, logits=False) / 1e6:.2f}",
            f"{product_bytes(shape, PRODUCT_ROWS, once=False) / 1e6:.2f}",
            f"{product_bytes(shape, PRODUCT_ROWS, once=True) / 1e6:.2f}",
        ]
        for shape in SHAPES
        for window in WINDOWS
    ]
    return (
        "One decoded token, bytes read and written; the columns after the first are relative to it:\n\n"
        + table(["step", *(kind.name for kind in KINDS)], steps)
        + "\nOne kernel, MB for each layer or for the head:\n\n"
        + table(
            [
                *(
                    "kernel",
                    *(f"attend: {kind.name}" for kind in KINDS),
                    "pack_rows, 8 bits",
                    "head, logits",
                    "head_top1",
                ),
                *(f"products of {PRODUCT_ROWS} rows, one by one", "rows_matmul"),
            ],
            kernels,
        )
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="bytes of each step, one object")


def run(args: argparse.Namespace) -> int:
    if args.json:
        rows = [
            {"shape": asdict(shape), "window": window, "kind": kind.name, "step_bytes": step_bytes(shape, kind, window)}
            for shape in SHAPES
            for window in WINDOWS
            for kind in KINDS
        ]
        sys.stdout.write(json.dumps(rows) + "\n")
    else:
        sys.stdout.write(report())
    return 0
