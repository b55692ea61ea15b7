"""Logits of every position at once, in float64, without a cache: the set that each query sees is written out.

It shares only the file reader with the package, and knows nothing of slots or rounds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def visible(n: int, window: int, sink: int, block: int) -> npt.NDArray[np.bool_]:
    """[n, n]: whether query (row) sees key (column)."""
    seen = np.zeros((n, n), bool)
    for query in range(n):
        first_of_block = query - query % block
        oldest = first_of_block - (window - block)
        for key in range(query + 1):
            seen[query, key] = key < sink or key >= oldest
    return seen


def oracle_logits(path: Path, tokens: list[int], seen: npt.NDArray[np.bool_]) -> Array:
    """[n, V] for a Llama or Qwen3 file."""
    tensors, shape = read_model(path)
    states = model_states(tensors, shape, tokens, seen)
    return norm(states[-1], tensors["output_norm"]) @ tensors.get("output", tensors["token_embd"]).T


def model_states(
    tensors: dict[str, Array], shape: dict[str, Any], tokens: list[int], seen: npt.NDArray[np.bool_]
) -> list[Array]:
    """The residual stream [n, hidden] after 0, 1, ... layers."""
    states = [tensors["token_embd"][tokens]]
    for layer in range(shape["layers"]):
        w = {name.split(".", 2)[2]: t for name, t in tensors.items() if name.startswith(f"blk.{layer}.")}
        states.append(one_layer(states[-1], w, np.arange(len(tokens)), seen, shape))
    return states


def norm(x: Array, weight: Array) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def one_layer(
    x: Array, w: dict[str, Array], positions: npt.NDArray[Any], seen: npt.NDArray[np.bool_], shape: dict[str, Any]
) -> Array:
    """One layer with the weights `w` on x [n, hidden] at `positions`; row `q` sees row `k` where seen[q, k]."""
    heads, kv_heads, dim = shape["heads"], shape["kv_heads"], shape["dim"]
    n = len(x)
    angles = positions[:, None] / 10000.0 ** (np.arange(0, dim, 2) / dim)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]

    def rotate(x: Array) -> Array:
        out = np.empty_like(x)
        if shape["qwen3"]:
            a, b = x[..., : dim // 2], x[..., dim // 2 :]
            out[..., : dim // 2], out[..., dim // 2 :] = a * cos - b * sin, a * sin + b * cos
        else:
            a, b = x[..., 0::2], x[..., 1::2]
            out[..., 0::2], out[..., 1::2] = a * cos - b * sin, a * sin + b * cos
        return out

    h = norm(x, w["attn_norm"])
    q = (h @ w["attn_q"].T).reshape(n, heads, dim)
    k = (h @ w["attn_k"].T).reshape(n, kv_heads, dim)
    v = (h @ w["attn_v"].T).reshape(n, kv_heads, dim).repeat(heads // kv_heads, 1)
    if "attn_q_norm" in w:
        q, k = norm(q, w["attn_q_norm"]), norm(k, w["attn_k_norm"])
    q, k = rotate(q), rotate(k).repeat(heads // kv_heads, 1)
    scores = np.where(seen[None], np.einsum("qhd,khd->hqk", q, k) / np.sqrt(dim), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    x = x + np.einsum("hqk,khd->qhd", weights, v).reshape(n, -1) @ w["attn_output"].T
    h = norm(x, w["ffn_norm"])
    gate = h @ w["ffn_gate"].T
    return x + (gate / (1 + np.exp(-gate)) * (h @ w["ffn_up"].T)) @ w["ffn_down"].T


def read_model(path: Path) -> tuple[dict[str, Array], dict[str, Any]]:
    import gguf

    reader = gguf.GGUFReader(path)
    architecture = reader.fields["general.architecture"].contents()

    def number(key: str) -> int:
        return int(reader.fields[f"{architecture}.{key}"].contents())

    tensors = {
        tensor.name.removesuffix(".weight"): gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        for tensor in reader.tensors
    }
    return tensors, {
        "qwen3": architecture == "qwen3",
        "layers": number("block_count"),
        "heads": number("attention.head_count"),
        "kv_heads": number("attention.head_count_kv"),
        "dim": number("attention.key_length"),
    }
