"""Shape and float32 weights of a Llama-like model, read from a GGUF file whose header was checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_header import GgufHeader, TensorInfo

Floats: TypeAlias = npt.NDArray[np.float32]

_HINT = "use --backend gguf"


@dataclass(frozen=True, slots=True)
class WeightsShape:
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ffn: int
    n_vocab: int
    norm_eps: float
    interleaved: bool  # RoPE turns neighboring pairs (llama) or the two halves (qwen3)


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Matrices are [out, in]; q, k and v lie in one, gate and up in one. `q_norm` and `k_norm` are qwen3's."""

    attn_norm: Floats
    qkv: Floats
    q_norm: Floats | None
    k_norm: Floats | None
    attn_output: Floats
    ffn_norm: Floats
    gate_up: Floats
    ffn_down: Floats


@dataclass(frozen=True, slots=True)
class Weights:
    embedding: Floats  # [V, hidden]
    layers: tuple[LayerWeights, ...]
    output_norm: Floats
    output: Floats  # [V, hidden]; the embedding itself where the head is tied
    frequencies: npt.NDArray[np.float64]  # [head_dim / 2] radians a position


def read_shape(header: GgufHeader, name: str) -> WeightsShape:
    """Raises ArtifactError for a model that this backend does not compute."""
    metadata = header.metadata
    architecture = metadata["general.architecture"]
    if architecture not in ("llama", "qwen3"):
        raise ArtifactError(f"{name}: the reference computes llama and qwen3, not {architecture}", hint=_HINT)

    def number(key: str, default: int | float | None = None) -> int | float:
        value = metadata.get(f"{architecture}.{key}", default)
        if not isinstance(value, int | float):
            raise ArtifactError(f"{name}: {architecture}.{key} is not one number", hint=_HINT)
        return value

    n_heads, hidden = int(number("attention.head_count")), int(number("embedding_length"))
    head_dim = int(number("attention.key_length", hidden // n_heads))
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling not in ("none", "linear") or number("expert_count", 0):
        raise ArtifactError(f"{name}: the reference computes no {scaling} RoPE scaling and no experts", hint=_HINT)
    if {number("attention.value_length", head_dim), number("rope.dimension_count", head_dim)} != {head_dim}:
        raise ArtifactError(f"{name}: keys, values and RoPE must all have {head_dim} dimensions here", hint=_HINT)
    return WeightsShape(
        n_layers=int(number("block_count")),
        hidden=hidden,
        n_heads=n_heads,
        n_kv_heads=int(number("attention.head_count_kv", n_heads)),
        head_dim=head_dim,
        n_ffn=int(number("feed_forward_length")),
        n_vocab=header.by_name["token_embd.weight"].shape[1],
        norm_eps=float(number("attention.layer_norm_rms_epsilon")),
        interleaved=architecture == "llama",
    )


def read_weights(header: GgufHeader, path: Path, shape: WeightsShape) -> Weights:
    """All tensors in float32. Raises ArtifactError for one that is missing, is not used here, or has another shape."""
    data = np.memmap(path, np.uint8, "r")
    left = dict(header.by_name)

    def take(tensor: str, *dims: int) -> Floats:
        info = left.pop(f"{tensor}.weight", None)
        if info is None or info.shape[::-1] != dims:
            found = "missing" if info is None else f"of shape {list(info.shape[::-1])}"
            raise ArtifactError(f"{path}: tensor {tensor}.weight is {found}; {list(dims)} is needed", hint=_HINT)
        return _dequantized(data, info, path)

    weights = _assemble(take, left, shape, _frequencies(header, shape))
    if left:
        raise ArtifactError(f"{path}: the reference does not compute with {', '.join(sorted(left)[:3])}", hint=_HINT)
    return weights


def _assemble(
    take: Callable[..., Floats], left: dict[str, TensorInfo], shape: WeightsShape, frequencies: npt.NDArray[np.float64]
) -> Weights:
    hidden, head = shape.hidden, shape.head_dim
    queries, keys = shape.n_heads * head, shape.n_kv_heads * head
    if "rope_freqs.weight" in left:  # llama3's scaling, one divisor for each frequency
        frequencies = frequencies / take("rope_freqs", head // 2)
    embedding = take("token_embd", shape.n_vocab, hidden)
    layers = []
    for layer in range(shape.n_layers):
        at = f"blk.{layer}."
        parts = [take(f"{at}attn_{part}", n, hidden) for part, n in (("q", queries), ("k", keys), ("v", keys))]
        gate_up = [take(f"{at}ffn_{part}", shape.n_ffn, hidden) for part in ("gate", "up")]
        layers.append(
            LayerWeights(
                attn_norm=take(f"{at}attn_norm", hidden),
                qkv=np.concatenate(parts),
                q_norm=None if shape.interleaved else take(f"{at}attn_q_norm", head),
                k_norm=None if shape.interleaved else take(f"{at}attn_k_norm", head),
                attn_output=take(f"{at}attn_output", hidden, queries),
                ffn_norm=take(f"{at}ffn_norm", hidden),
                gate_up=np.concatenate(gate_up),
                ffn_down=take(f"{at}ffn_down", hidden, shape.n_ffn),
            )
        )
    output = take("output", shape.n_vocab, hidden) if "output.weight" in left else embedding
    return Weights(embedding, tuple(layers), take("output_norm", hidden), output, frequencies)


def _frequencies(header: GgufHeader, shape: WeightsShape) -> npt.NDArray[np.float64]:
    architecture = header.metadata["general.architecture"]
    base = header.metadata.get(f"{architecture}.rope.freq_base", 10000.0)
    factor = header.metadata.get(f"{architecture}.rope.scaling.factor", 1.0)
    if not isinstance(base, float) or not isinstance(factor, float) or base <= 0 or factor <= 0:
        raise ArtifactError(f"RoPE base {base} and scaling factor {factor} must be positive numbers")
    scaled = header.metadata.get(f"{architecture}.rope.scaling.type") == "linear"
    return base ** (-np.arange(0, shape.head_dim, 2) / shape.head_dim) / (factor if scaled else 1.0)


def _dequantized(data: npt.NDArray[np.uint8], info: TensorInfo, path: Path) -> Floats:
    """[..., rows, columns] float32, in NumPy's order of dimensions."""
    from gguf import GGMLQuantizationType, dequantize

    raw = np.asarray(data[info.offset : info.offset + info.n_bytes])
    rows = raw.reshape(-1, info.n_bytes // int(np.prod(info.shape[1:], dtype=np.int64)))
    try:
        values = dequantize(rows, GGMLQuantizationType[info.type.name])
    except (KeyError, NotImplementedError) as error:
        raise ArtifactError(
            f"{path}: tensor {info.name} is {info.type.name}, which this backend does not read", hint=_HINT
        ) from error
    return np.ascontiguousarray(values, np.float32).reshape(info.shape[::-1])
