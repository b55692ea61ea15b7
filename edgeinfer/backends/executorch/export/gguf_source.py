"""Weights of a GGUF file: Llama (Mistral and SmolLM among them), Qwen2 and Qwen3."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.executorch.export.q4_0 import Floats, Q4Weight, unpacked_q4_0
from edgeinfer.backends.executorch.export.shape import DecoderShape, rope_frequencies
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_header import GgufHeader, TensorInfo

ARCHITECTURES = ("llama", "qwen2", "qwen3")
_HINT = "export a Llama, Mistral, SmolLM, Qwen2 or Qwen3 model"


class GgufSource:
    """See source.Source."""

    def __init__(self, path: Path, header: GgufHeader) -> None:
        self.path = path
        self._header = header
        self._data = np.memmap(path, np.uint8, "r")
        self.shape = _shape(header, path)

    def frequencies(self) -> npt.NDArray[np.float64]:
        shape, base = self.shape, _number(self._header, "rope.freq_base", self.path, 10000.0)
        frequencies = rope_frequencies(base, shape.head_dim)
        if "rope_freqs.weight" in self._header.by_name:
            return np.asarray(frequencies / self.floats("rope_freqs"), np.float64)
        if self._header.metadata.get(f"{shape.architecture}.rope.scaling.type") == "linear":
            frequencies = frequencies / _number(self._header, "rope.scaling.factor", self.path)
        return frequencies

    def has(self, name: str) -> bool:
        return _full(name) in self._header.by_name

    def floats(self, name: str) -> Floats:
        from gguf import GGMLQuantizationType, dequantize

        info = self._info(name)
        try:
            values = dequantize(self._rows(info), GGMLQuantizationType[info.type.name])
        except (KeyError, NotImplementedError) as error:
            raise ArtifactError(
                f"{self.path}: tensor {info.name} is {info.type.name}, which the exporter does not read"
            ) from error
        return np.ascontiguousarray(self._in_halves(name, values.reshape(info.shape[::-1])), np.float32)

    def q4_0(self, name: str) -> Q4Weight | None:
        info = self._info(name)
        if info.type.name != "Q4_0":
            return None
        weight = unpacked_q4_0(self._rows(info))
        return Q4Weight(self._in_halves(name, weight.values), self._in_halves(name, weight.scales))

    def _info(self, name: str) -> TensorInfo:
        info = self._header.by_name.get(_full(name))
        if info is None:
            raise ArtifactError(f"{self.path}: tensor {_full(name)} is missing")
        return info

    def _rows(self, info: TensorInfo) -> npt.NDArray[np.uint8]:
        raw = self._data[info.offset : info.offset + info.n_bytes]
        n_rows = int(np.prod(info.shape[1:], dtype=np.int64))
        return np.asarray(raw).reshape(n_rows, info.n_bytes // n_rows)

    def _in_halves(self, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """GGUF's llama has the rows of a head in RoPE pairs; here they lie in two halves."""
        part = name.rpartition(".")[2] if not name.endswith(".bias") else name.split(".")[-2]
        if self.shape.architecture != "llama" or part not in ("attn_q", "attn_k"):
            return rows
        return in_halves(rows, self.shape.n_heads if part == "attn_q" else self.shape.n_kv_heads)


def in_halves(rows: npt.NDArray[Any], n_heads: int) -> npt.NDArray[Any]:
    """`rows` [heads x head_dim, ...] for a RoPE that turns halves, of rows for one that turns neighbors."""
    return rows.reshape(n_heads, len(rows) // n_heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def _full(name: str) -> str:
    return name if name.endswith(".bias") else f"{name}.weight"


def _number(header: GgufHeader, key: str, path: Path, default: float | None = None) -> float:
    full = f"{header.metadata['general.architecture']}.{key}"
    value = header.metadata.get(full, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
        raise ArtifactError(f"{path}: {full} must be a positive number; it is {str(value)[:40]}")
    return value


def _shape(header: GgufHeader, path: Path) -> DecoderShape:
    metadata = header.metadata
    architecture = str(metadata["general.architecture"])
    if architecture not in ARCHITECTURES:
        raise ArtifactError(f"{path}: {architecture} models are not exported", hint=_HINT)

    def whole(key: str, default: float | None = None) -> int:
        return int(_number(header, key, path, default))

    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise ArtifactError(f"{path}: RoPE scaling {scaling!r} is not exported", hint="choose a model without it")
    n_layers, hidden, n_heads = whole("block_count"), whole("embedding_length"), whole("attention.head_count")
    head_dim = whole("attention.key_length", hidden // n_heads)
    widths = {whole("attention.value_length", head_dim), whole("rope.dimension_count", head_dim)}
    if widths != {head_dim} or f"{architecture}.expert_count" in metadata:
        raise ArtifactError(f"{path}: experts, and keys, values and RoPE of different widths, are not exported")
    return DecoderShape(
        architecture=architecture,
        n_layers=n_layers,
        hidden=hidden,
        n_heads=n_heads,
        n_kv_heads=whole("attention.head_count_kv", n_heads),
        head_dim=head_dim,
        n_ffn=whole("feed_forward_length"),
        n_vocab=header.by_name["token_embd.weight"].shape[1],
        limit=whole("context_length"),
        norm_eps=_number(header, "attention.layer_norm_rms_epsilon", path),
        exit_layer=_exit_layer(metadata.get("edgeinfer.exit_layer"), n_layers, path),
        tied="output.weight" not in header.by_name,
    )


def _exit_layer(value: object, n_layers: int, path: Path) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < n_layers:
        raise ArtifactError(f"{path}: edgeinfer.exit_layer is {value!r}; the model has {n_layers} layers")
    return value
