"""The project's Metal kernels, each beside a plain twin in MLX operations, and the choice between them.

    kernels = choose_kernels()                  the environment and the device decide, once
    layout = RingLayout(head_dim, bits, dtype)  one per layer shape
    ring = layout.empty(n_kv_heads, slots)      [1, Hkv, slots, row]
    rows = kernels.pack_rows(k, v, layout)      [1, Hkv, N, row], to be slice-updated into the ring
    step = Step(start, n_rows, visible, stored, sliding)       one per forward and kind of layer
    out = kernels.attend(q, ring, layout, step, scale)         [1, Hq, N, D]
    top = kernels.head_top1(x, head)            token, logit and probability, no logits
    y = kernels.rows_matmul(x, matrix)          [M, N], for 2 to 8 rows where that is quicker than MLX's own

A kernel that cannot serve a call declines, and the twin runs; one that fails its first run on this GPU is left out
(`Kernels.failed` says why). `EDGEINFER_KERNELS` = `auto` (default: all, where there
is Metal), `off`, or names of KERNELS joined by commas, for A/B runs. On Metal, this has not been run yet.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field

import mlx.core as mx

from edgeinfer.backends.mlx.kernels.attend import MAX_ROWS, attend_kernel, attend_twin
from edgeinfer.backends.mlx.kernels.head import Head, Top1, head_logits, head_top1_kernel, head_top1_twin
from edgeinfer.backends.mlx.kernels.launch import Launcher, on_metal
from edgeinfer.backends.mlx.kernels.layout import RingLayout, Step, held_positions
from edgeinfer.backends.mlx.kernels.matmul import MATMUL_ROWS, Matrix, rows_matmul_kernel, rows_matmul_twin
from edgeinfer.backends.mlx.kernels.pack import pack_rows_kernel, pack_rows_twin, unpack_rows
from edgeinfer.backends.mlx.kernels.trial import Product, failing, quicker
from edgeinfer.errors import UsageError

__all__ = [
    "KERNELS",
    "MATMUL_ROWS",
    "MAX_ROWS",
    "Head",
    "Kernels",
    "Matrix",
    "RingLayout",
    "Step",
    "Top1",
    "choose_kernels",
    "head_logits",
    "held_positions",
    "unpack_rows",
]

KERNELS = ("attend", "pack_rows", "head_top1", "rows_matmul")
ENVIRONMENT = "EDGEINFER_KERNELS"


@dataclass(frozen=True, slots=True)
class Kernels:
    """Which kernels may run. Every method handles every call, by its kernel or by the twin."""

    names: frozenset[str] = frozenset()
    launch: Launcher = on_metal
    failed: Mapping[str, str] = field(default_factory=dict)  # kernels that were wanted and left out, and why
    is_quicker: Callable[[Product, Product], bool] = quicker
    won: dict[Hashable, bool] = field(default_factory=dict, init=False)  # trials of rows_matmul, by shape

    def pack_rows(self, k: mx.array, v: mx.array, layout: RingLayout) -> mx.array:
        """k, v [1, Hkv, N, D] -> [1, Hkv, N, layout.row] of `layout.ring_dtype`."""
        rows = pack_rows_kernel(k, v, layout, self.launch) if "pack_rows" in self.names else None
        return pack_rows_twin(k, v, layout) if rows is None else rows

    def attend(
        self,
        q: mx.array,
        ring: mx.array,
        layout: RingLayout,
        step: Step,
        scale: float,
        *,
        sink_logits: mx.array | None = None,
    ) -> mx.array:
        """q [1, Hq, N, D], ring [1, Hkv, slots, row] with the N rows written -> [1, Hq, N, D] of q's dtype.

        `sink_logits` [Hq]: a learned logit per head that takes part in the softmax and has no value (gpt-oss).
        """
        out = None
        if "attend" in self.names:
            out = attend_kernel(q, ring, layout, step, scale, self.launch, sink_logits=sink_logits)
        return attend_twin(q, ring, layout, step, scale, sink_logits=sink_logits) if out is None else out

    def head_top1(self, x: mx.array, head: Head) -> Top1:
        """x [N, D], before the head's norm where `head` has one. The smallest id wins a tie."""
        top = head_top1_kernel(x, head, self.launch) if "head_top1" in self.names else None
        return head_top1_twin(x, head) if top is None else top

    def rows_matmul(self, x: mx.array, matrix: Matrix) -> mx.array:
        """x [M, K] -> [M, N] of x's dtype. The first product of a shape is timed both ways on this GPU."""
        if "rows_matmul" not in self.names or len(x) not in MATMUL_ROWS:
            return rows_matmul_twin(x, matrix)
        shape = (*x.shape, x.dtype, matrix.n_outs, matrix.bits, matrix.group)
        if shape not in self.won:
            self.won[shape] = self._wins(mx.zeros(x.shape, x.dtype), matrix)
        y = rows_matmul_kernel(x, matrix, self.launch) if self.won[shape] else None
        return rows_matmul_twin(x, matrix) if y is None else y

    def _wins(self, x: mx.array, matrix: Matrix) -> bool:
        def kernel() -> mx.array:
            y = rows_matmul_kernel(x, matrix, self.launch)
            assert y is not None
            return y

        if rows_matmul_kernel(x, matrix, self.launch) is None:
            return False
        return self.is_quicker(kernel, lambda: rows_matmul_twin(x, matrix))


def choose_kernels(environment: Mapping[str, str] = os.environ, *, launch: Launcher = on_metal) -> Kernels:
    """The kernels to use: those requested, except those that differ from their twins in a first run on this GPU.

    Raises UsageError for a name in EDGEINFER_KERNELS that is no kernel, and for kernels asked for without Metal.
    """
    wish = environment.get(ENVIRONMENT, "auto").strip()
    if wish == "off" or (wish == "auto" and not mx.metal.is_available()):
        return Kernels()
    names = frozenset(KERNELS if wish == "auto" else (name.strip() for name in wish.split(",")))
    unknown = sorted(names - set(KERNELS))
    if unknown:
        raise UsageError(
            f"{ENVIRONMENT} names no kernel: {', '.join(unknown)}", hint=f"off, auto or some of {','.join(KERNELS)}"
        )
    if not mx.metal.is_available():
        raise UsageError(f"{ENVIRONMENT}={wish} needs Metal, which this device lacks", hint=f"{ENVIRONMENT}=off")
    failed = failing(names, launch)
    return Kernels(names - failed.keys(), launch, failed)
