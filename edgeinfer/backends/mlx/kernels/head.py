"""Greedy token and its probability from the last hidden state. Formula and traffic: metal_kernels/head_top1.metal."""

from __future__ import annotations

from dataclasses import dataclass

import mlx.core as mx

from edgeinfer.backends.mlx.kernels.launch import Launch, Launcher

__all__ = ["Head", "Top1", "head_logits", "head_top1_kernel", "head_top1_twin"]

SIMD_GROUPS = 8
IDS = 4  # vocabulary rows a SIMD group reads at once
MAX_PARTS = 512
NORMED_BYTES = 24 * 1024  # of the 32 KiB of threadgroup memory


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """A language-model head, with the norm before it.

    `table`: [V, D * bits / 32] uint32 with `scales`, `biases` [V, D / group] (mlx.core.quantize, affine) where
    bits < 16; [V, D] float16 or bfloat16 where bits is 16. `norm_weight` [D] (RMS norm) or None; `softcap` 0 for none.
    """

    table: mx.array
    bits: int
    scales: mx.array | None = None
    biases: mx.array | None = None
    group: int = 64
    norm_weight: mx.array | None = None
    eps: float = 1e-5
    softcap: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Top1:
    """token [N] int32, logit [N] float32, share [N] float32: its probability at temperature 1."""

    token: mx.array
    logit: mx.array
    share: mx.array


def head_top1_kernel(x: mx.array, head: Head, launch: Launcher, *, max_parts: int = MAX_PARTS) -> Top1 | None:
    """x [N, D] -> Top1; None when it cannot serve: 2, 3, 5 and 32-bit heads, rows too wide for threadgroup memory."""
    n_rows, width = x.shape
    if not _serves(x, head):
        return None
    rows = next(m for m in (8, 4, 2, 1) if n_rows % m == 0 and (m == 1 or m * width * x.dtype.size <= NORMED_BYTES))
    n_ids = head.table.shape[0]
    step = SIMD_GROUPS * IDS
    chunk = step * max(1, -(-n_ids // (step * max_parts)))
    parts = -(-n_ids // chunk)
    one = mx.zeros((1,), x.dtype)
    sizes = mx.array([n_ids, chunk, parts], mx.int32)
    best, sums, ids = launch(
        Launch(
            "head_top1",
            inputs=(
                x,
                one if head.norm_weight is None else head.norm_weight.astype(x.dtype),
                head.table if head.bits < 16 else head.table.view(mx.uint32),
                one if head.scales is None else head.scales,
                one if head.biases is None else head.biases,
                mx.array([head.eps, head.softcap], mx.float32),
                sizes,
            ),
            template=(
                ("T", x.dtype),
                ("HT", x.dtype if head.bits == 16 else mx.float16),
                ("D", width),
                ("BITS", head.bits),
                ("GS", head.group),
                ("M", rows),
                ("NS", SIMD_GROUPS),
                ("IDS", IDS),
                ("NORM", head.norm_weight is not None),
                ("CAP", head.softcap > 0),
            ),
            grid=(parts * SIMD_GROUPS * 32, n_rows // rows, 1),
            threadgroup=(SIMD_GROUPS * 32, 1, 1),
            output_shapes=((n_rows, parts),) * 3,
            output_dtypes=(mx.float32, mx.float32, mx.int32),
        )
    )
    token, top, share = launch(
        Launch(
            "head_merge",
            inputs=(best, sums, ids, sizes),
            template=(),
            grid=(n_rows * 32, 1, 1),
            threadgroup=(32, 1, 1),
            output_shapes=((n_rows,),) * 3,
            output_dtypes=(mx.int32, mx.float32, mx.float32),
        )
    )
    return Top1(token, top, share)


def head_top1_twin(x: mx.array, head: Head) -> Top1:
    """The same through the logits."""
    logits = head_logits(x, head)
    token = mx.argmax(logits, axis=-1).astype(mx.int32)
    logit = logits.max(axis=-1)
    return Top1(token, logit, mx.exp(logit - mx.logsumexp(logits, axis=-1)))


def head_logits(x: mx.array, head: Head) -> mx.array:
    """x [N, D] -> [N, V] float32."""
    if head.norm_weight is not None:
        x = mx.fast.rms_norm(x, head.norm_weight.astype(x.dtype), head.eps)
    if head.scales is not None and head.biases is not None:
        logits = mx.quantized_matmul(
            x, head.table, scales=head.scales, biases=head.biases, group_size=head.group, bits=head.bits
        )
    else:
        logits = x @ head.table.T
    logits = logits.astype(mx.float32)
    return head.softcap * mx.tanh(logits / head.softcap) if head.softcap > 0 else logits


def _serves(x: mx.array, head: Head) -> bool:
    width = x.shape[1]
    if x.dtype not in (mx.float32, mx.float16, mx.bfloat16) or width * x.dtype.size > NORMED_BYTES:
        return False
    if head.bits == 16:
        return bool(head.table.dtype == x.dtype and width % 8 == 0)
    affine = head.scales is not None and head.biases is not None
    return affine and head.bits in (4, 6, 8) and width % head.group == 0 and head.group % 16 == 0
