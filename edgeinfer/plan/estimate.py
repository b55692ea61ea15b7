"""Bytes that a plan takes: weights, K and V, and the rest."""

from __future__ import annotations

from edgeinfer.catalog.entry import Artifact, LayerKv, ModelShape
from edgeinfer.plan.types import Estimate
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy

__all__ = ["PREFILL_ROWS", "estimate", "kv_bytes", "kv_value_bytes", "workspace_bytes"]

PREFILL_ROWS = 256  # rows of one forward, at most: what the activations and a GPU's logits buffer are sized for
_CELLS = 256  # llama.cpp rounds its K/V cells up to this many

# a value in a block of 32: llama.cpp's block_q8_0 is 34 bytes, block_q4_0 is 18; MLX's groups of 64 come to the same
_KV_VALUE_BYTES: dict[KvType, float] = {"f32": 4.0, "f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}

# the interpreter with what a chat imports, and the engine's own code and tables
_ENGINE_BYTES = {"gguf": 90_000_000, "mlx": 160_000_000, "executorch": 40_000_000, "reference": 60_000_000}
_TOKENIZER_BYTES_PER_ENTRY = 200


def kv_value_bytes(kv_type: KvType) -> float:
    """Bytes of one stored K or V value, its share of the block's scale included."""
    return _KV_VALUE_BYTES[kv_type]


def kv_bytes(shape: ModelShape, backend: str, policy: WindowPolicy, kv_type: KvType) -> int:
    """Bytes of K and V that a cache of this backend holds, every layer that owns K/V counted as it is stored."""
    per_value = _KV_VALUE_BYTES[kv_type]
    return round(
        sum(_slots(kv, backend, policy) * kv.n_layers * kv.n_kv_heads * kv.head_dim * 2 * per_value for kv in shape.kv)
    )


def _slots(kv: LayerKv, backend: str, policy: WindowPolicy) -> int:
    if backend != "gguf":
        return policy.slots
    cells = _padded(policy.slots)
    return min(cells, _padded(kv.window + PREFILL_ROWS)) if kv.window else cells


def _padded(cells: int) -> int:
    return -(-cells // _CELLS) * _CELLS


def workspace_bytes(shape: ModelShape, backend: str) -> int:
    """The interpreter, the engine, the tokenizer, activations of one prefill and the logits rows, in bytes."""
    activations = PREFILL_ROWS * (6 * shape.hidden + 3 * shape.n_ffn) * 4
    logits = PREFILL_ROWS * shape.n_vocab * 4
    return _ENGINE_BYTES[backend] + shape.n_vocab * _TOKENIZER_BYTES_PER_ENTRY + activations + logits


def estimate(shape: ModelShape, artifact: Artifact, policy: WindowPolicy, kv_type: KvType) -> Estimate:
    return Estimate(
        weight_bytes=artifact.n_bytes,
        kv_bytes=kv_bytes(shape, artifact.backend, policy, kv_type),
        workspace_bytes=workspace_bytes(shape, artifact.backend),
    )
