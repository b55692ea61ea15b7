"""Weights of a Hugging Face folder: `config.json` and safetensors files of a Llama, Mistral, Qwen2 or Qwen3 model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.executorch.export.q4_0 import Floats, Q4Weight
from edgeinfer.backends.executorch.export.shape import DecoderShape, llama3_divisors, rope_frequencies
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.safetensors_header import SafetensorsFolder

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")
_HINT = "export a Llama, Mistral, SmolLM, Qwen2 or Qwen3 model"
_LAYER_PARTS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OTHERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


class FolderSource:
    """See source.Source."""

    def __init__(self, folder: SafetensorsFolder) -> None:
        self.path = folder.path
        self._config = folder.config
        self._homes = {name: file for file, header in folder.files.items() for name in header.tensors}
        self._headers = folder.files
        self.shape = self._read_shape()

    def frequencies(self) -> npt.NDArray[np.float64]:
        scaling = _rope_scaling(self._config)
        frequencies = rope_frequencies(self._number(scaling, "rope_theta", 10000.0), self.shape.head_dim)
        kind = _rope_kind(scaling)
        if kind == "linear":
            return frequencies / self._number(scaling, "factor")
        if kind == "llama3":
            factor, low = self._number(scaling, "factor"), self._number(scaling, "low_freq_factor")
            high = self._number(scaling, "high_freq_factor")
            original = self._number(scaling, "original_max_position_embeddings")
            return frequencies / llama3_divisors(frequencies, factor, low, high, original)
        return frequencies

    def has(self, name: str) -> bool:
        return _folder_name(name) in self._homes

    def floats(self, name: str) -> Floats:
        tensor_name = _folder_name(name)
        file = self._homes.get(tensor_name)
        if file is None:
            raise ArtifactError(f"{self.path}: tensor {tensor_name} is missing")
        tensor = self._headers[file].tensors[tensor_name]
        raw = np.memmap(self.path / file, np.uint8, "r", offset=tensor.offset, shape=(tensor.n_bytes,))
        if tensor.dtype == "BF16":
            values = (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        elif tensor.dtype in ("F16", "F32"):
            values = raw.view(np.float16 if tensor.dtype == "F16" else np.float32).astype(np.float32)
        else:
            raise ArtifactError(f"{self.path}: tensor {tensor_name} is {tensor.dtype}; BF16, F16 and F32 are exported")
        return values.reshape(tensor.shape)

    def q4_0(self, name: str) -> Q4Weight | None:
        del name
        return None

    def _read_shape(self) -> DecoderShape:
        config, architecture = self._config, str(self._config.get("model_type", ""))[:40]
        if architecture not in ARCHITECTURES:
            raise ArtifactError(f"{self.path}: {architecture or 'unnamed'} models are not exported", hint=_HINT)
        if config.get("quantization") or config.get("quantization_config"):
            raise ArtifactError(f"{self.path}: the weights are quantized already", hint="export the original folder")
        _rope_kind(_rope_scaling(config))

        def whole(key: str, default: float | None = None) -> int:
            return int(self._number(config, key, default))

        hidden, n_heads = whole("hidden_size"), whole("num_attention_heads")
        n_layers = whole("num_hidden_layers")
        exit_layer = config.get("edgeinfer_exit_layer")
        if exit_layer is not None and not (isinstance(exit_layer, int) and 0 < exit_layer < n_layers):
            raise ArtifactError(f"{self.path}: edgeinfer_exit_layer is {exit_layer!r}; the model has {n_layers} layers")
        return DecoderShape(
            architecture=architecture,
            n_layers=n_layers,
            hidden=hidden,
            n_heads=n_heads,
            n_kv_heads=whole("num_key_value_heads", n_heads),
            head_dim=whole("head_dim", hidden // n_heads),
            n_ffn=whole("intermediate_size"),
            n_vocab=whole("vocab_size"),
            limit=_limit(config, whole("max_position_embeddings")),
            norm_eps=self._number(config, "rms_norm_eps", 1e-6),
            exit_layer=exit_layer,
            tied="lm_head.weight" not in self._homes,
        )

    def _number(self, fields: Mapping[str, Any], key: str, default: float | None = None) -> float:
        value = fields.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ArtifactError(f"{self.path}: config.json gives no usable `{key}`: {str(value)[:40]}")
        return value


def _folder_name(name: str) -> str:
    stem, suffix = (name.removesuffix(".bias"), "bias") if name.endswith(".bias") else (name, "weight")
    if stem in _OTHERS:
        return f"{_OTHERS[stem]}.{suffix}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{_LAYER_PARTS[part]}.{suffix}"


def _rope_scaling(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` of transformers 5, or `rope_scaling` with `rope_theta` beside it."""
    fields = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(fields, dict):
        raise ArtifactError("config.json: rope_scaling is not an object")
    return {"rope_theta": config.get("rope_theta"), **fields}


def _rope_kind(scaling: Mapping[str, Any]) -> str:
    kind = str(scaling.get("rope_type", scaling.get("type", "default")))
    if kind not in ("default", "linear", "llama3"):
        raise ArtifactError(f"RoPE scaling {kind[:40]!r} is not exported", hint="choose a model without it")
    return kind


def _limit(config: Mapping[str, Any], limit: int) -> int:
    """A model with its own sliding window is exact up to the length of that window."""
    window = config.get("sliding_window")
    is_used = config.get("use_sliding_window", config.get("model_type") == "mistral")
    return min(limit, window) if is_used and isinstance(window, int) and window > 0 else limit
