"""The correct results of the kernels, in float64 NumPy from the definitions: the window policy position by position,
the packed row value by value. It shares no code with the kernels or their twins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edgeinfer.window import WindowPolicy

Array = npt.NDArray[np.float64]


def unpack(words: npt.NDArray[np.uint32], head_dim: int, bits: int) -> Array:
    """Packed K or V rows [..., words] of codes and (scale, bias) -> [..., D]."""
    n_groups = {64: 1, 80: 2, 96: 2, 128: 2, 256: 4, 512: 8}[head_dim]
    size = head_dim // n_groups
    out = np.zeros((*words.shape[:-1], head_dim))
    for d in range(head_dim):
        bit = d * bits
        code = words[..., bit // 32] >> np.uint32(bit % 32) & np.uint32((1 << bits) - 1)
        affine = words[..., head_dim * bits // 32 + d // size]
        scale = (affine & np.uint32(0xFFFF)).astype(np.uint16).view(np.float16).astype(np.float64)
        bias = (affine >> np.uint32(16)).astype(np.uint16).view(np.float16).astype(np.float64)
        out[..., d] = code * scale + bias
    return out


def attend(
    q: Array,
    k: Array,
    v: Array,
    start: int,
    policy: WindowPolicy,
    *,
    sliding: int,
    scale: float,
    first: int = 0,
    logits: Array | None = None,
) -> Array:
    """q [Hq, N, D]; k, v [Hkv, positions, D], by position, of which those from `first` on count; -> [Hq, N, D]."""
    n_heads, n_rows, _ = q.shape
    group = n_heads // k.shape[0]
    out = np.zeros_like(q)
    for row in range(n_rows):
        query = start + row
        seen = [p for p in range(first, query + 1) if policy.visible(query, p) and (not sliding or query - p < sliding)]
        for head in range(n_heads):
            scores = k[head // group, seen] @ q[head, row] * scale
            top = max(scores.max(), -np.inf if logits is None else logits[head])
            weights = np.exp(scores - top)
            total = weights.sum() + (0 if logits is None else np.exp(logits[head] - top))
            out[head, row] = weights @ v[head // group, seen] / total
    return out


def head_logits(x: Array, table: Array, *, softcap: float) -> Array:
    """x [N, D] after the norm, table [V, D] -> [N, V]."""
    logits = x @ table.T
    return softcap * np.tanh(logits / softcap) if softcap else logits


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def matmul(x: Array, codes: npt.NDArray[np.uint32], scales: Array, biases: Array, *, bits: int, group: int) -> Array:
    """x [M, K]; codes [N, words], scales, biases [N, K / group] -> [M, N]."""
    width = x.shape[1]
    table = np.zeros((len(codes), width))
    for k in range(width):
        code = codes[:, k * bits // 32] >> np.uint32(k * bits % 32) & np.uint32((1 << bits) - 1)
        table[:, k] = code * scales[:, k // group] + biases[:, k // group]
    return x @ table.T
