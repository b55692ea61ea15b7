"""Attention over the packed ring for a few query rows. Formula, grid and traffic: metal_kernels/attend.metal."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import mlx.core as mx

from edgeinfer.backends.mlx.kernels.launch import Launch, Launcher
from edgeinfer.backends.mlx.kernels.layout import TILE, RingLayout, Step
from edgeinfer.backends.mlx.kernels.pack import unpack_rows

__all__ = ["HEAD_DIMS", "MAX_ROWS", "LaunchShape", "attend_kernel", "attend_twin", "shape_for"]

HEAD_DIMS = frozenset({64, 80, 96, 128, 256, 512})
MAX_ROWS = 8
SIMD_GROUPS = 4
TILES_PER_SPLIT = 8  # 256 slots: 2 tiles for each SIMD group of a threadgroup
MAX_SPLITS = 64
ACCUMULATORS = 32  # floats of output that one lane keeps; with as many of the query it stays clear of spilling


@dataclass(frozen=True, slots=True)
class LaunchShape:
    """What is chosen per call: query rows per threadgroup, and parts of the ring that run side by side."""

    rows: int
    splits: int


def shape_for(layout: RingLayout, n_rows_per_kv_head: int, used: int) -> LaunchShape:
    lanes = lanes_per_key(layout.n_words, layout.head_dim)
    values_per_lane = -(-layout.n_words // lanes) * (32 // layout.bits)
    rows = 1
    while rows < n_rows_per_kv_head and 2 * rows * values_per_lane <= ACCUMULATORS:
        rows *= 2
    tiles = -(-used // TILE)
    return LaunchShape(rows, max(1, min(MAX_SPLITS, -(-tiles // TILES_PER_SPLIT))))


def lanes_per_key(n_words: int, head_dim: int) -> int:
    """As in ring.h."""
    if n_words >= 32 and head_dim > 128:
        return 32
    return 16 if n_words >= 16 else 8


def attend_kernel(
    q: mx.array,
    ring: mx.array,
    layout: RingLayout,
    step: Step,
    scale: float,
    launch: Launcher,
    *,
    sink_logits: mx.array | None = None,
    shape: LaunchShape | None = None,
) -> mx.array | None:
    """q [1, Hq, N, D], ring [1, Hkv, slots, row] -> [1, Hq, N, D] of q's dtype; None when it cannot serve."""
    batch, n_heads, n_rows, head_dim = q.shape
    n_kv_heads = ring.shape[1]
    fits = batch == 1 and head_dim in HEAD_DIMS and 1 <= n_rows <= MAX_ROWS and n_heads % n_kv_heads == 0
    known = q.dtype in (mx.float32, mx.float16, mx.bfloat16) and ring.dtype == layout.ring_dtype
    if not (fits and known and ring.shape == (1, n_kv_heads, step.stored.slots, layout.row)):
        return None
    group = n_heads // n_kv_heads
    shape = shape or shape_for(layout, group * n_rows, step.used)
    last = shape.splits == 1
    logits = _scalars(0.0) if sink_logits is None else sink_logits.astype(mx.float32)
    params = step.params(shape.splits)
    all_rows = n_heads * n_rows
    out, stats = launch(
        Launch(
            "attend",
            inputs=(q, ring, logits, _scalars(scale), params),
            template=(
                ("T", q.dtype),
                ("O", q.dtype if last else mx.float32),
                ("KT", ring.dtype if layout.bits == 16 else mx.float16),
                ("BITS", layout.bits),
                ("D", head_dim),
                ("G", group),
                ("R", shape.rows),
                ("NS", SIMD_GROUPS),
                ("LAST", last),
                ("LOGITS", sink_logits is not None),
            ),
            grid=(-(-group * n_rows // shape.rows) * SIMD_GROUPS * 32, n_kv_heads, shape.splits),
            threadgroup=(SIMD_GROUPS * 32, 1, 1),
            output_shapes=((all_rows, shape.splits, head_dim), (all_rows, shape.splits, 2)),
            output_dtypes=(q.dtype if last else mx.float32, mx.float32),
        )
    )
    if last:
        return out.reshape(q.shape)
    (merged,) = launch(
        Launch(
            "attend_merge",
            inputs=(out, stats, logits, params),
            template=(("T", q.dtype), ("D", head_dim), ("LOGITS", sink_logits is not None)),
            grid=(all_rows * 32, 1, 1),
            threadgroup=(32, 1, 1),
            output_shapes=(tuple(q.shape),),
            output_dtypes=(q.dtype,),
        )
    )
    return merged


def attend_twin(
    q: mx.array,
    ring: mx.array,
    layout: RingLayout,
    step: Step,
    scale: float,
    *,
    sink_logits: mx.array | None = None,
) -> mx.array:
    """The same by MLX's own operations, for any number of rows: unpack the used slots, then masked attention."""
    k, v = unpack_rows(ring[:, :, : step.used], layout)
    sinks = None if sink_logits is None else sink_logits.astype(q.dtype)
    return mx.fast.scaled_dot_product_attention(
        q, k.astype(q.dtype), v.astype(q.dtype), scale=scale, mask=step.mask(), sinks=sinks
    )


@cache
def _scalars(value: float) -> mx.array:
    """[1] float32, which a kernel gets as a constant."""
    return mx.array([value], mx.float32)
