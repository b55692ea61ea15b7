"""Makes a catalog entry from a Hugging Face model folder. Numbers in its `config.json` are validated."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeinfer.catalog.entry import Artifact, LayerKv, ModelEntry, ModelShape
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.hf_folder import nested_config
from edgeinfer.named_files import open_file
from edgeinfer.types import Sampling

__all__ = ["entry_of_config", "read_config"]

MAX_CONFIG_BYTES = 1 << 20
MAX_NUMBER = 1 << 31
MAX_LAYERS = 4096
# The defaults of each family's configuration class (transformers 4.52, configuration_*.py).
_GEMMA2 = {
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "sliding_window": 4096,
    "sliding_window_pattern": 2,
}
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "gemma2": _GEMMA2,
    "gemma3": {**_GEMMA2, "vocab_size": 262208, "max_position_embeddings": 131072, "sliding_window_pattern": 6},
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "max_position_embeddings": 2048,
    },
}
_OTHER_KEYS = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embd", "d_model", "dim"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads"),
    "num_key_value_heads": ("n_head_kv", "n_kv_heads", "num_kv_heads"),
    "intermediate_size": ("n_inner", "ffn_dim", "ffn_hidden_size"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len", "seq_length"),
}
THINK = ("<think>", "</think>")


def read_config(path: Path) -> dict[str, Any]:
    """Raises ArtifactError unless the file is a JSON object of a sensible size."""
    try:
        with open_file(path) as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        config = json.loads(data) if len(data) <= MAX_CONFIG_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a model's configuration: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise ArtifactError(f"{path} is not a model's configuration")
    return config


def entry_of_config(name: str, config: Mapping[str, Any], artifact: Artifact, sampling: Sampling) -> ModelEntry:
    """The entry of a folder whose weights take `artifact.n_bytes`. Raises ArtifactError where a number is missing."""
    shape = shape_of_config(language_config(config), artifact.n_bytes, bits_of(config))
    return ModelEntry(
        name=name,
        title=name,
        license="not stated",
        gated=False,
        rank=0,
        rank_source="not ranked: it is in no catalog",
        shape=shape,
        sampling=sampling,
        artifacts=(artifact,),
        in_catalog=False,
        thinking=THINK if str(config.get("model_type", "")).startswith("qwen3") else None,
    )


def language_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's values under the usual keys, with the family's defaults for keys that are missing."""
    nested = nested_config(dict(config))
    said = {**config, **nested}  # the outer object may hold keys that the nested one lacks
    family = str(said.get("model_type"))
    usual = {usual: said[other] for usual, others in _OTHER_KEYS.items() for other in others if other in said}
    return {**_DEFAULTS.get(family.removesuffix("_text"), {}), **usual, **said}


def kv_groups(config: Mapping[str, Any], n_layers: int, n_kv_heads: int, head_dim: int) -> tuple[LayerKv, ...]:
    """Layers of full attention, and those with a sliding window where the file or the family says which they are."""
    window, every = config.get("sliding_window"), config.get("sliding_window_pattern")
    types = config.get("layer_types")
    if isinstance(types, list) and len(types) == n_layers:
        n_sliding = sum(kind == "sliding_attention" for kind in types)
    else:
        n_sliding = n_layers - n_layers // every if isinstance(every, int) and every > 1 else 0
    if not isinstance(window, int) or window <= 0 or not n_sliding:
        return (LayerKv(n_layers, n_kv_heads, head_dim),)
    groups = LayerKv(n_sliding, n_kv_heads, head_dim, window), LayerKv(n_layers - n_sliding, n_kv_heads, head_dim)
    return tuple(group for group in groups if group.n_layers)


def shape_of_config(config: Mapping[str, Any], n_bytes: int, bits: float) -> ModelShape:
    def number(key: str, default: int | None = None, most: int = MAX_NUMBER) -> int:
        value = config.get(key)
        value = default if value is None else value
        if key == "intermediate_size" and isinstance(value, list) and all(isinstance(one, int) for one in value):
            value = max(value, default=0)  # one for each layer
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= most:
            raise ArtifactError(f"config.json gives no usable `{key}`: {str(value)[:40]}")
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
        kv=kv_groups(config, n_layers, number("num_key_value_heads", n_heads), head_dim),
        n_params=n_params,
        n_active_params=n_params,
    )


def tier_of(config: Mapping[str, Any]) -> str:
    """The name of an MLX folder's quantization: `mlx-4bit-g64`, or `mlx-bf16` without any."""
    how = config.get("quantization")
    bits, group = (how.get("bits"), how.get("group_size")) if isinstance(how, dict) else (None, None)
    return f"mlx-{bits}bit-g{group}" if isinstance(bits, int) and isinstance(group, int) else "mlx-bf16"


def bits_of(config: Mapping[str, Any]) -> float:
    """Bits per weight, with a scale and a bias of 16 bits for each group."""
    how = config.get("quantization")
    bits, group = (how.get("bits"), how.get("group_size")) if isinstance(how, dict) else (None, None)
    if isinstance(bits, int) and isinstance(group, int) and 1 <= bits <= 8 and group > 0:
        return bits + 32 / group
    return 16.0
