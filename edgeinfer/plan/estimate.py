"""Bytes that a plan takes: weights, K and V, and the rest."""

from __future__ import annotations

from edgeinfer.catalog.entry import Artifact, LayerKv, ModelShape
from edgeinfer.plan.types import Estimate
from edgeinfer.types import KvType, ValueType, of_k_and_v
from edgeinfer.window import WindowPolicy

__all__ = ["PREFILL_ROWS", "estimate", "kv_bytes", "kv_row_bytes", "workspace_bytes"]

PREFILL_ROWS = 256  # rows of one llama.cpp forward, at most: its activations are sized for them
_MLX_STEP = 512  # rows of one MLX forward, and the slack that a layer with its own window keeps
_LOGIT_ROWS = 16  # rows of one verify, at most
_CELLS = 256  # llama.cpp rounds its K/V cells up to this many

# How a quantized row of K or V is scaled: values that share a scale, and its bytes. llama.cpp's block_q8_0 and
# block_q4_0 have 2 bytes for 32; a packed ring row of metal_kernels/ has a scale and a bias of 2 bytes each for 64.
_SCALES = {"mlx": (64, 4)}
_BLOCK = (32, 2)
_VALUE_BITS: dict[ValueType, int] = {"f32": 32, "f16": 16, "q8_0": 8, "q4_0": 4}

# The interpreter with what a chat imports, and the engine's own code and tables: measured, docs/memory.md.
_ENGINE_BYTES = {"gguf": 72_000_000, "mlx": 160_000_000, "executorch": 40_000_000, "reference": 60_000_000}
_TOKENIZER_BYTES_PER_ENTRY = 200
_LANES_BYTES = 7_000_000  # contexts that draft and verify in llama.cpp, without what follows from the shape: measured


def kv_row_bytes(backend: str, kv_type: KvType, head_dim: int) -> int:
    """Bytes of one stored row of K and one of V, of one head, their scales included."""
    return sum(_row_bytes(backend, kind, head_dim) for kind in of_k_and_v(kv_type))


def _row_bytes(backend: str, kind: ValueType, head_dim: int) -> int:
    group, scale_bytes = _SCALES.get(backend, _BLOCK) if kind in ("q8_0", "q4_0") else (head_dim, 0)
    return head_dim * _VALUE_BITS[kind] // 8 + -(-head_dim // group) * scale_bytes


def kv_bytes(shape: ModelShape, backend: str, policy: WindowPolicy, kv_type: KvType) -> int:
    """Bytes of K and V that a cache of this backend holds, every layer that owns K/V counted as it is stored."""
    return sum(
        _slots(kv, backend, policy) * kv.n_layers * kv.n_kv_heads * kv_row_bytes(backend, kv_type, kv.head_dim)
        for kv in shape.kv
    )


def _slots(kv: LayerKv, backend: str, policy: WindowPolicy) -> int:
    """K/V rows of one layer; a layer with a window of its own keeps that and the rows of one forward."""
    if backend == "gguf":
        cells = _up_to(_CELLS, policy.slots)
        return min(cells, _up_to(_CELLS, kv.window + PREFILL_ROWS)) if kv.window else cells
    if backend == "mlx" and kv.window:
        return min(policy.slots, _up_to(_MLX_STEP, kv.window) + _MLX_STEP)
    return policy.slots


def _up_to(multiple: int, n: int) -> int:
    return -(-n // multiple) * multiple


def workspace_bytes(shape: ModelShape, backend: str) -> int:
    """The interpreter, the engine, the tokenizer, the activations of one prefill and the rows of logits, in bytes."""
    rows = _MLX_STEP if backend == "mlx" else PREFILL_ROWS
    activations = rows * (7 * shape.hidden + 5 * shape.n_ffn) * 4
    logits = 2 * _LOGIT_ROWS * shape.n_vocab * 4  # in the graph, and as they are handed over
    return _ENGINE_BYTES[backend] + shape.n_vocab * _TOKENIZER_BYTES_PER_ENTRY + activations + logits


def lanes_bytes(shape: ModelShape) -> int:
    """What drafting with the early layers adds in llama.cpp: two contexts, each with the smallest K/V there is."""
    cells = 2 * _CELLS * sum(kv.n_layers * kv.n_kv_heads * kv_row_bytes("gguf", "q4_0", kv.head_dim) for kv in shape.kv)
    return _LANES_BYTES + cells


def estimate(
    shape: ModelShape, artifact: Artifact, policy: WindowPolicy, kv_type: KvType, *, exits: bool = False
) -> Estimate:
    """`exits`: the model may draft with its early layers."""
    lanes = lanes_bytes(shape) if exits and artifact.backend == "gguf" else 0
    return Estimate(
        weight_bytes=artifact.n_bytes,
        kv_bytes=kv_bytes(shape, artifact.backend, policy, kv_type),
        workspace_bytes=workspace_bytes(shape, artifact.backend) + lanes,
    )
