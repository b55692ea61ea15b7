"""New K and V rows to packed ring rows, and back. Formula and layout: metal_kernels/pack_rows.metal, ring.h."""

from __future__ import annotations

import mlx.core as mx

from edgeinfer.backends.mlx.kernels.launch import Launch, Launcher
from edgeinfer.backends.mlx.kernels.layout import RingLayout

__all__ = ["pack_rows_kernel", "pack_rows_twin", "unpack_rows"]


def pack_rows_kernel(k: mx.array, v: mx.array, layout: RingLayout, launch: Launcher) -> mx.array | None:
    """k, v [1, Hkv, N, D] -> [1, Hkv, N, row] uint32; None for 16 and 32 bits, where packing is a concatenation."""
    _, n_kv_heads, n_rows, head_dim = k.shape
    group = head_dim // max(1, layout.n_groups)
    if not layout.quantized or k.shape != v.shape or k.shape[0] != 1 or group * layout.bits % 32 or group > 64:
        return None
    (rows,) = launch(
        Launch(
            "pack_rows",
            inputs=(k, v.astype(k.dtype)),
            template=(("T", k.dtype), ("BITS", layout.bits), ("D", head_dim)),
            grid=(n_kv_heads * n_rows * 2 * layout.n_groups * 32, 1, 1),
            threadgroup=(32, 1, 1),
            output_shapes=((1, n_kv_heads, n_rows, layout.row),),
            output_dtypes=(mx.uint32,),
        )
    )
    return rows


def pack_rows_twin(k: mx.array, v: mx.array, layout: RingLayout) -> mx.array:
    """k, v [1, Hkv, N, D] -> packed rows [1, Hkv, N, row] of `layout.ring_dtype`."""
    if not layout.quantized:
        return mx.concatenate([k, v], axis=-1).astype(layout.ring_dtype)
    return mx.concatenate([_pack(k, layout), _pack(v, layout)], axis=-1)


def unpack_rows(rows: mx.array, layout: RingLayout) -> tuple[mx.array, mx.array]:
    """Packed rows [1, Hkv, S, row] -> K and V [1, Hkv, S, D] of `layout.dtype`."""
    if not layout.quantized:
        return rows[..., : layout.head_dim], rows[..., layout.head_dim :]
    half_row = layout.row // 2
    return _unpack(rows[..., :half_row], layout), _unpack(rows[..., half_row:], layout)


def _pack(values: mx.array, layout: RingLayout) -> mx.array:
    *lead, head_dim = values.shape
    levels = (1 << layout.bits) - 1
    groups = values.astype(mx.float32).reshape(*lead, layout.n_groups, head_dim // layout.n_groups)
    low = groups.min(axis=-1, keepdims=True)
    bias = low.astype(mx.float16)
    scale = ((groups.max(axis=-1, keepdims=True) - low) / levels).astype(mx.float16)
    step = scale.astype(mx.float32)
    codes = mx.round((groups - bias.astype(mx.float32)) / mx.where(step > 0, step, 1.0))
    codes = mx.clip(mx.where(step > 0, codes, 0), 0, levels).astype(mx.uint32)
    shifts = mx.arange(0, 32, layout.bits, dtype=mx.uint32)
    words = (codes.reshape(*lead, layout.n_words, 32 // layout.bits) << shifts).sum(axis=-1).astype(mx.uint32)
    affine = mx.concatenate([scale, bias], axis=-1).reshape(*lead, 2 * layout.n_groups).view(mx.uint32)
    return mx.concatenate([words, affine], axis=-1)


def _unpack(packed: mx.array, layout: RingLayout) -> mx.array:
    lead = packed.shape[:-1]
    shifts = mx.arange(0, 32, layout.bits, dtype=mx.uint32)
    codes = (packed[..., : layout.n_words, None] >> shifts) & ((1 << layout.bits) - 1)
    affine = mx.contiguous(packed[..., layout.n_words :]).view(mx.float16).reshape(*lead, layout.n_groups, 2)
    groups = codes.reshape(*lead, layout.n_groups, layout.head_dim // layout.n_groups).astype(mx.float32)
    values = groups * affine[..., :1].astype(mx.float32) + affine[..., 1:].astype(mx.float32)
    return values.reshape(*lead, layout.head_dim).astype(layout.dtype)
