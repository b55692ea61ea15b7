"""One check per kernel: run it through a launcher and compare with tests/metal/reference.py. Raises AssertionError.

The tests, the seeded mistakes and a Mac's GPU all go through these functions; only the launcher differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np

from edgeinfer.backends.mlx.kernels import Head, Matrix, RingLayout, Step
from edgeinfer.backends.mlx.kernels.attend import LaunchShape, attend_kernel
from edgeinfer.backends.mlx.kernels.head import head_top1_kernel
from edgeinfer.backends.mlx.kernels.launch import Launcher
from edgeinfer.backends.mlx.kernels.layout import RingBits
from edgeinfer.backends.mlx.kernels.matmul import rows_matmul_kernel
from edgeinfer.backends.mlx.kernels.pack import pack_rows_kernel, pack_rows_twin
from edgeinfer.window import WindowPolicy
from tests.metal import reference

# Largest |difference| allowed, relative to max(1, |expected|): float32 sums in another order, or one last rounding.
TOLERANCE = {mx.float32: 5e-6, mx.float16: 1e-3, mx.bfloat16: 8e-3}
POLICY = WindowPolicy(window=64, sink=5, block=16, limit=4096)
WIDE_POLICY = WindowPolicy(window=512, sink=40, block=128, limit=4096)  # several tiles for each SIMD group
NOBODY = 0xFFFFFFFF  # both halves NaN: a slot that was never written


def doubles(array: mx.array) -> np.ndarray:
    return np.array(array.astype(mx.float32)).astype(np.float64)


def close(got: mx.array, expected: np.ndarray, tolerance: float, what: str) -> None:
    values = doubles(got)
    assert np.isfinite(values).all(), f"{what}: not finite"
    worst = np.max(np.abs(values - expected) / np.maximum(1, np.abs(expected)))
    assert worst <= tolerance, f"{what}: off by {worst:.2g}, allowed {tolerance:.2g}"


@dataclass(frozen=True)
class AttendCase:
    head_dim: int
    bits: RingBits
    dtype: Any
    n_kv_heads: int = 2
    group: int = 2
    n_rows: int = 1
    starts: tuple[int, ...] = (0, 56, 133)  # empty; up to the wrap; past the wrap, in the middle of a block
    sliding: int = 0
    first: int = 0  # no key lies before it
    policy: WindowPolicy = POLICY
    stored: WindowPolicy | None = None  # None: the policy's
    logits: bool = False
    shape: LaunchShape | None = None
    seed: int = 0

    def __str__(self) -> str:
        name = f"{self.head_dim}-{self.bits}bit-{str(self.dtype).split('.')[-1]}-{self.group}x{self.n_rows}"
        return (
            name
            + ("-sliding" if self.sliding else "")
            + ("-late" if self.first else "")
            + ("-logits" if self.logits else "")
            + (f"-{self.shape.splits}splits" if self.shape else "")
        )


def attend_inputs(case: AttendCase, start: int) -> tuple[mx.array, mx.array, mx.array, RingLayout, Step]:
    """q, ring, packed rows of every position [1, Hkv, end, row], layout, step. Slots never written hold NaN."""
    rng = np.random.default_rng(case.seed + start)
    end = start + case.n_rows
    assert case.n_rows <= case.policy.room(start), "a forward never crosses a block"
    stored = case.stored or case.policy
    layout = RingLayout(case.head_dim, case.bits, case.dtype)
    shape = (1, case.n_kv_heads, end, case.head_dim)
    k = mx.array(rng.normal(0.3, 1.5, shape), mx.float32).astype(case.dtype)
    v = mx.array(rng.normal(-0.2, 1.0, shape), mx.float32).astype(case.dtype)
    rows = pack_rows_twin(k, v, layout)
    words = layout.row if layout.quantized else layout.row * layout.dtype.size // 4
    ring = mx.full((1, case.n_kv_heads, stored.slots, words), NOBODY, mx.uint32).view(layout.ring_dtype)
    for position in range(case.first, end):
        ring[:, :, stored.slot(position)] = rows[:, :, position]
    q = mx.array(rng.normal(0, 1, (1, case.n_kv_heads * case.group, case.n_rows, case.head_dim)), mx.float32)
    return (
        q.astype(case.dtype),
        ring,
        rows,
        layout,
        Step(start, case.n_rows, case.policy, stored, case.sliding, case.first),
    )


def packed_values(rows: mx.array, layout: RingLayout) -> tuple[np.ndarray, np.ndarray]:
    if not layout.quantized:
        both = doubles(rows)[0]
        return both[..., : layout.head_dim], both[..., layout.head_dim :]
    words, half_row = np.array(rows)[0], layout.row // 2
    return (
        reference.unpack(words[..., :half_row], layout.head_dim, layout.bits),
        reference.unpack(words[..., half_row:], layout.head_dim, layout.bits),
    )


def check_attend(case: AttendCase, launch: Launcher, starts: tuple[int, ...] | None = None) -> None:
    scale = case.head_dim**-0.5
    for start in starts or case.starts:
        q, ring, rows, layout, step = attend_inputs(case, start)
        logits = mx.linspace(-1.0, 2.0, q.shape[1]) if case.logits else None
        got = attend_kernel(q, ring, layout, step, scale, launch, sink_logits=logits, shape=case.shape)
        assert got is not None, "the kernel declined"
        k, v = packed_values(rows, layout)
        expected = reference.attend(
            doubles(q)[0],
            k,
            v,
            start,
            case.policy,
            sliding=case.sliding,
            scale=scale,
            first=case.first,
            logits=None if logits is None else doubles(logits),
        )
        close(got[0], expected, TOLERANCE[case.dtype], f"attend {case} at {start}")


@dataclass(frozen=True)
class PackCase:
    head_dim: int
    bits: RingBits
    dtype: Any
    n_rows: int = 3

    def __str__(self) -> str:
        return f"{self.head_dim}-{self.bits}bit-{str(self.dtype).split('.')[-1]}"


def check_pack(case: PackCase, launch: Launcher) -> None:
    """Every code is the nearest to its value; scale and bias are those of the group's least and greatest value."""
    rng = np.random.default_rng(case.head_dim + case.bits)
    layout = RingLayout(case.head_dim, case.bits, case.dtype)
    k, v = (
        mx.array(rng.normal(m, 2, (1, 2, case.n_rows, case.head_dim)), mx.float32).astype(case.dtype) for m in (3, -1)
    )
    k[:, 0, 0] = 1.25  # a group of equal values
    rows = pack_rows_kernel(k, v, layout, launch)
    assert rows is not None, "the kernel declined"
    assert rows.shape == (1, 2, case.n_rows, layout.row)
    half_row, words = layout.row // 2, np.array(rows)[0]
    levels = (1 << case.bits) - 1
    for name, values, packed in (("K", k, words[..., :half_row]), ("V", v, words[..., half_row:])):
        groups = doubles(values)[0].reshape(2, case.n_rows, layout.n_groups, -1)
        affine = packed[..., layout.n_words :].copy().view(np.float16).reshape(*groups.shape[:-1], 2).astype(np.float64)
        scale, bias = affine[..., :1], affine[..., 1:]
        spread = (groups.max(axis=-1, keepdims=True) - groups.min(axis=-1, keepdims=True)) / levels
        assert np.allclose(scale, spread, rtol=1e-3, atol=1e-7), f"pack {case}: scales of {name}"
        assert np.allclose(bias, groups.min(axis=-1, keepdims=True), rtol=1e-3, atol=1e-7), (
            f"pack {case}: biases of {name}"
        )
        back = reference.unpack(packed, case.head_dim, case.bits).reshape(groups.shape)
        # Half a step, plus the error of scale and bias in half precision at the ends of the range.
        allowed = scale * (0.501 + levels * 2.0**-11) + np.abs(bias) * 2.0**-11
        assert (np.abs(back - groups) <= allowed).all(), f"pack {case}: codes of {name}"


@dataclass(frozen=True)
class HeadCase:
    bits: int
    dtype: Any
    width: int = 192
    n_ids: int = 203
    n_rows: int = 2
    norm: bool = True
    softcap: float = 0.0
    group: int = 64
    ties: tuple[int, ...] = ()  # ids whose rows are equal and the best
    max_parts: int = 512

    def __str__(self) -> str:
        name = f"{self.bits}bit-{str(self.dtype).split('.')[-1]}-{self.n_ids}x{self.width}-{self.n_rows}rows"
        return name + ("-norm" if self.norm else "") + ("-cap" if self.softcap else "") + ("-ties" if self.ties else "")


def head_inputs(case: HeadCase) -> tuple[mx.array, Head, np.ndarray]:
    """States x [N, D], the head, and its table in float64."""
    rng = np.random.default_rng(case.bits + case.n_ids)
    x = mx.array(rng.normal(0, 1, (case.n_rows, case.width)), mx.float32).astype(case.dtype)
    weight = mx.array(rng.normal(1, 0.3, case.width), mx.float32).astype(case.dtype) if case.norm else None
    table = mx.array(rng.normal(0, 0.2, (case.n_ids, case.width)), mx.float32)
    for tied in case.ties:
        table[tied] = x[0].astype(mx.float32) * 0.5
    table = table.astype(case.dtype)
    if case.bits == 16:
        return x, Head(table, 16, norm_weight=weight, softcap=case.softcap), doubles(table)
    codes, scales, biases = mx.quantize(table, case.group, case.bits)
    head = Head(codes, case.bits, scales, biases, case.group, weight, softcap=case.softcap)
    wide = mx.dequantize(codes, scales.astype(mx.float32), biases.astype(mx.float32), case.group, case.bits)
    return x, head, doubles(wide)


def check_head(case: HeadCase, launch: Launcher) -> None:
    x, head, table = head_inputs(case)
    got = head_top1_kernel(x, head, launch, max_parts=case.max_parts)
    assert got is not None, "the kernel declined"
    hidden = doubles(x)
    if head.norm_weight is not None:
        normed = reference.rms_norm(hidden, doubles(head.norm_weight), head.eps)
        hidden = doubles(mx.array(normed, mx.float32).astype(case.dtype))  # the head gets states in the model's dtype
    logits = reference.head_logits(hidden, table, softcap=case.softcap)
    top = logits.max(axis=-1)
    # Two roundings of the normed state may differ in the last bit of a few values.
    slack = {mx.float32: 1e-5, mx.float16: 4e-3, mx.bfloat16: 4e-2}[case.dtype]
    for row, token in enumerate(np.array(got.token).tolist()):
        assert 0 <= token < case.n_ids, f"head {case}: token {token}"
        assert logits[row, token] >= top[row] - slack, f"head {case}: token {token} is not the best of row {row}"
    if case.ties:
        assert got.token[0].item() == min(case.ties), f"head {case}: the smallest id must win a tie"
    close(got.logit, top, slack, f"head {case} logit")
    share = 1 / np.exp(logits - top[:, None]).sum(axis=-1)
    close(got.share, share, slack, f"head {case} probability")


@dataclass(frozen=True)
class MatmulCase:
    bits: int
    dtype: Any
    n_rows: int
    width: int = 640  # a whole tile and a part of one
    n_outs: int = 37  # not a multiple of what a SIMD group or a threadgroup computes
    group: int = 64

    def __str__(self) -> str:
        name = f"{self.bits}bit-g{self.group}-{str(self.dtype).split('.')[-1]}"
        return f"{name}-{self.n_outs}x{self.width}-{self.n_rows}rows"


def check_matmul(case: MatmulCase, launch: Launcher) -> None:
    rng = np.random.default_rng(case.bits + case.n_rows)
    x = mx.array(rng.normal(0, 1, (case.n_rows, case.width)), mx.float32).astype(case.dtype)
    table = mx.array(rng.normal(0, case.width**-0.5, (case.n_outs, case.width)), mx.float32).astype(case.dtype)
    codes, scales, biases = mx.quantize(table, case.group, case.bits)
    y = rows_matmul_kernel(x, Matrix(codes, scales, biases, case.bits, case.group), launch)
    assert y is not None, "the kernel declined"
    expected = reference.matmul(
        doubles(x), np.array(codes), doubles(scales), doubles(biases), bits=case.bits, group=case.group
    )
    close(y, expected, TOLERANCE[case.dtype], f"matmul {case}")
