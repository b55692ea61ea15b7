"""A stock mlx-lm model from a checked folder or from a GGUF of Q4_0, Q4_1, Q8_0, F16, BF16 or F32 tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.hf_folder import read_json

GGUF_TYPES = frozenset({"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0"})  # what mx.load reads without a detour

# llama.cpp's tensor names (gguf-py 0.19.0, tensor_mapping.py) -> those of mlx_lm.models.llama and qwen3
_BLOCK = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_TOP = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def load_folder(folder: Path) -> tuple[Any, dict[str, Any]]:
    """(model, config) of an mlx-community style folder. Raises ArtifactError; never runs code of the folder."""
    from mlx_lm.utils import load_model

    config = read_json(folder / "config.json")
    if not config:
        raise ArtifactError(f"{folder} has no config.json")
    for key in ("model_file", "auto_map"):
        if key in config:
            raise ArtifactError(f"{folder} asks for code of its own ({key})", hint="edgeinfer never runs it")
    try:
        model, loaded = load_model(folder, lazy=True, strict=True, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, FileNotFoundError, RuntimeError) as error:
        raise ArtifactError(f"{folder} does not load with mlx-lm: {str(error).splitlines()[0]}") from error
    return model, loaded


def load_gguf(path: Path, header: GgufHeader, dtype: mx.Dtype) -> tuple[Any, dict[str, Any]]:
    """(model, config) of a llama or qwen3 GGUF; tensors that are not quantized become `dtype`. Raises ArtifactError."""
    from mlx_lm.models import llama, qwen3

    config = gguf_config(header)
    foreign = sorted({tensor.type.name for tensor in header.tensors} - GGUF_TYPES)
    if foreign:
        raise ArtifactError(
            f"{path.name} holds {', '.join(foreign)} tensors; MLX reads {', '.join(sorted(GGUF_TYPES))}",
            hint="use --backend gguf, or a Q4_0 or Q8_0 file",
        )
    arrays: dict[str, mx.array] = mx.load(str(path), format="gguf")  # type: ignore[assignment]
    factors = arrays.pop("rope_freqs.weight", None)
    weights = {name: array for key, array in arrays.items() if (name := _rename(key))}
    module: Any = llama if config["model_type"] == "llama" else qwen3
    model = module.Model(module.ModelArgs.from_dict(config))
    quantized = {name.removesuffix(".scales"): array for name, array in weights.items() if name.endswith(".scales")}
    nn.quantize(
        model,
        class_predicate=lambda name, layer: (
            _quantization(layer, weights[f"{name}.weight"], quantized[name]) if name in quantized else False
        ),
    )
    weights = {name: array if array.dtype == mx.uint32 else array.astype(dtype) for name, array in weights.items()}
    expected = {name for name, _ in tree_flatten(model.parameters())}
    if missing := sorted(expected - weights.keys()):
        raise ArtifactError(f"{path.name} lacks {len(missing)} tensors, the first {missing[0]}")
    model.load_weights(list(weights.items()), strict=True)
    if factors is not None:
        scale_rope(model, factors)
    return model, config


def gguf_config(header: GgufHeader) -> dict[str, Any]:
    """mlx-lm's config for a GGUF. llama.cpp stores llama's Q and K rows for interleaved RoPE, qwen3's as they were."""
    architecture = str(header.metadata.get("general.architecture"))
    if architecture not in ("llama", "qwen3"):
        raise ArtifactError(
            f"MLX reads llama and qwen3 GGUF files here; this one is {architecture!r}",
            hint="use --backend gguf, or an mlx-community folder of the same model",
        )

    def number(key: str, default: float | None = None) -> Any:
        value = header.metadata.get(f"{architecture}.{key}", default)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ArtifactError(f"the GGUF metadata has no usable {architecture}.{key}")
        return value

    hidden, n_heads = number("embedding_length"), number("attention.head_count")
    names = {tensor.name for tensor in header.tensors}
    embedding = next((tensor for tensor in header.tensors if tensor.name == "token_embd.weight"), None)
    if embedding is None or n_heads < 1:
        raise ArtifactError("the GGUF has no token_embd.weight or no attention heads")
    return {
        "model_type": architecture,
        "hidden_size": hidden,
        "num_hidden_layers": number("block_count"),
        "intermediate_size": number("feed_forward_length"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": number("attention.head_count_kv", n_heads),
        "head_dim": number("attention.key_length", hidden // n_heads),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "vocab_size": embedding.shape[1],
        "max_position_embeddings": number("context_length"),
        "rope_theta": number("rope.freq_base", 10000.0),
        "rope_traditional": architecture == "llama",
        "tie_word_embeddings": "output.weight" not in names,
    }


class ScaledRope(nn.Module):  # type: ignore[misc]
    """RoPE whose frequencies are divided by the file's factors (`rope_freqs.weight`, Llama 3.1 and later)."""

    def __init__(self, dims: int, traditional: bool, periods: mx.array) -> None:
        super().__init__()
        self.dims, self.traditional = dims, traditional
        self._periods = periods  # [dims / 2]: base^(2i/dims) * factor

    def __call__(self, x: mx.array, offset: int = 0) -> mx.array:
        return mx.fast.rope(
            x, self.dims, traditional=self.traditional, base=None, scale=1.0, offset=offset, freqs=self._periods
        )


def scale_rope(model: Any, factors: mx.array) -> None:
    args = model.args
    dims = args.head_dim or args.hidden_size // args.num_attention_heads
    periods = args.rope_theta ** (mx.arange(0, dims, 2) / dims) * factors.astype(mx.float32)
    for layer in model.model.layers:
        layer.self_attn.rope = ScaledRope(dims, bool(getattr(args, "rope_traditional", False)), periods)


def _quantization(layer: Any, weight: mx.array, scales: mx.array) -> dict[str, Any]:
    in_dims = layer.weight.shape[-1]
    return {"group_size": in_dims // scales.shape[-1], "bits": weight.shape[-1] * 32 // in_dims, "mode": "affine"}


def _rename(key: str) -> str:
    """`blk.3.attn_q.scales` -> `model.layers.3.self_attn.q_proj.scales`; "" for tensors that MLX does not take."""
    stem, _, part = key.rpartition(".")
    if stem in _TOP:
        return f"{_TOP[stem]}.{part}"
    block, _, rest = stem.partition(".")
    index, _, name = rest.partition(".")
    return f"model.layers.{index}.{_BLOCK[name]}.{part}" if block == "blk" and name in _BLOCK else ""
