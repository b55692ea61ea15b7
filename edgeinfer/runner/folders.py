"""A model folder in the form of Hugging Face as a catalogue entry: what its `config.json` says, held to be numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeinfer.catalog.entry import Artifact, LayerKv, ModelEntry, ModelShape
from edgeinfer.errors import ArtifactBad
from edgeinfer.types import Sampling

__all__ = ["entry_of_config", "read_config"]

MAX_CONFIG_BYTES = 1 << 20
MAX_NUMBER = 1 << 31
MAX_LAYERS = 4096
THINK = ("<think>", "</think>")


def read_config(path: Path) -> dict[str, Any]:
    """Raises ArtifactBad for what is not a JSON object of a sensible size."""
    try:
        data = path.read_bytes()[: MAX_CONFIG_BYTES + 1]
        config = json.loads(data) if len(data) <= MAX_CONFIG_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactBad(f"{path} is not a model's configuration: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise ArtifactBad(f"{path} is not a model's configuration")
    return config


def entry_of_config(name: str, config: Mapping[str, Any], artifact: Artifact, sampling: Sampling) -> ModelEntry:
    """The entry of a folder whose weights take `artifact.n_bytes`. Raises ArtifactBad where a number is missing."""
    text = config.get("text_config")
    shape = shape_of_config(text if isinstance(text, dict) else config, artifact.n_bytes, bits_of(config))
    return ModelEntry(
        name=name,
        title=name,
        license="not stated",
        gated=False,
        rank=0,
        rank_source="not ranked: it is in no catalogue",
        shape=shape,
        sampling=sampling,
        artifacts=(artifact,),
        thinking=THINK if str(config.get("model_type", "")).startswith("qwen3") else None,
    )


def shape_of_config(config: Mapping[str, Any], n_bytes: int, bits: float) -> ModelShape:
    def number(key: str, default: int | None = None, most: int = MAX_NUMBER) -> int:
        value = config.get(key)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise ArtifactBad(f"config.json gives no usable `{key}`: {str(value)[:40]}")
        return value

    n_layers = number("num_hidden_layers", most=MAX_LAYERS)
    hidden = number("hidden_size")
    n_heads = number("num_attention_heads")
    head_dim = number("head_dim", max(1, hidden // n_heads))
    n_params = int(n_bytes * 8 / bits)
    return ModelShape(
        architecture=str(config.get("model_type", "unknown"))[:40],
        n_layers=n_layers,
        hidden=hidden,
        n_heads=n_heads,
        n_ffn=number("intermediate_size"),
        n_vocab=number("vocab_size"),
        limit=number("max_position_embeddings"),
        kv=(LayerKv(n_layers, number("num_key_value_heads", n_heads), head_dim),),
        n_params=n_params,
        n_active_params=n_params,
    )


def tier_of(config: Mapping[str, Any]) -> str:
    """The name of an MLX folder's quantization: `mlx-4bit-g64`, or `mlx-bf16` without any."""
    how = config.get("quantization")
    bits, group = (how.get("bits"), how.get("group_size")) if isinstance(how, dict) else (None, None)
    return f"mlx-{bits}bit-g{group}" if isinstance(bits, int) and isinstance(group, int) else "mlx-bf16"


def bits_of(config: Mapping[str, Any]) -> float:
    """Bits a weight, with a scale and a bias of 16 bits for each group."""
    how = config.get("quantization")
    bits, group = (how.get("bits"), how.get("group_size")) if isinstance(how, dict) else (None, None)
    if isinstance(bits, int) and isinstance(group, int) and 1 <= bits <= 8 and group > 0:
        return bits + 32 / group
    return 16.0
