"""Tiny random models of every mlx-lm family that the adapter supports."""

from __future__ import annotations

import copy
import importlib
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_unflatten

from edgeinfer.backends.mlx.model import MlxModel

N_LAYERS = 6
N_VOCAB = 128
BASE: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": N_LAYERS,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": N_VOCAB,
    "max_position_embeddings": 4096,
    "head_dim": 16,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 3
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
GEMMA4 = {
    "model_type": "gemma4_text",
    "global_head_dim": 32,
    "sliding_window": 8,
    "sliding_window_pattern": 3,
    "vocab_size_per_layer_input": N_VOCAB,
}


def config(model_type: str, **extra: Any) -> dict[str, Any]:
    return {**BASE, "model_type": model_type, **extra}


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": config("llama"),
    "llama-untied": config("llama", tie_word_embeddings=False),
    "llama-sliding": config("llama", layer_types=ALTERNATING, sliding_window=8),
    "ministral3": config(
        "ministral3",
        layer_types=ALTERNATING,
        sliding_window=8,
        tie_word_embeddings=False,
        rope_parameters={
            "rope_theta": 1e4,
            "rope_type": "default",
            "llama_4_scaling_beta": 0.1,
            "original_max_position_embeddings": 16,
        },
    ),
    "mistral3": {"model_type": "mistral3", "text_config": config("mistral")},
    "qwen2": config("qwen2"),
    "qwen3": config("qwen3"),
    "qwen3_moe": config("qwen3_moe", decoder_sparse_step=1, mlp_only_layers=[], **MOE),
    "phi3": config("phi3", tie_word_embeddings=False),
    "gemma": config("gemma"),
    "gemma2": config("gemma2", query_pre_attn_scalar=16.0),
    "gemma3_text": config("gemma3_text", sliding_window=8, sliding_window_pattern=3, query_pre_attn_scalar=16.0),
    "gemma3": {
        "model_type": "gemma3",
        "vocab_size": N_VOCAB,
        "text_config": config("gemma3_text", sliding_window=8, sliding_window_pattern=3, query_pre_attn_scalar=16.0),
    },
    "gemma4-own-kv": {
        **BASE, **GEMMA4, "num_kv_shared_layers": 0, "hidden_size_per_layer_input": 0, "use_double_wide_mlp": False,
    },
    "gemma4-shared-kv": {
        **BASE, **GEMMA4, "num_kv_shared_layers": 3, "hidden_size_per_layer_input": 16, "use_double_wide_mlp": True,
    },
    "smollm3": config("smollm3", no_rope_layer_interval=3),
    "olmo2": config("olmo2"),
    "olmo3": config("olmo3", sliding_window=8, layer_types=(["sliding_attention"] * 2 + ["full_attention"]) * 2),
    "cohere2": config(
        "cohere2", sliding_window=8, sliding_window_pattern=3, logit_scale=0.5, layer_norm_eps=1e-5,
        layer_norm_bias=False, attention_bias=False,
    ),
    "granite": config(
        "granite", logits_scaling=2.0, attention_multiplier=0.25, embedding_multiplier=3.0, residual_multiplier=0.5,
        attention_bias=False, mlp_bias=False,
    ),
    "gpt_oss": config(
        "gpt_oss", num_local_experts=4, num_experts_per_tok=2, sliding_window=8, rope_scaling=None,
        layer_types=ALTERNATING,
    ),
    "glm4": config("glm4", attention_bias=False, partial_rotary_factor=0.5, rope_traditional=True),
    "exaone4": config("exaone4", sliding_window=8, sliding_window_pattern="LLG", rope_scaling=None),
    "starcoder2": config("starcoder2", norm_epsilon=1e-5),
}  # fmt: skip

RECURRENT: dict[str, dict[str, Any]] = {
    "lfm2": config(
        "lfm2", norm_eps=1e-5, conv_bias=False, conv_L_cache=3, block_dim=64, block_ff_dim=128, block_multiple_of=16,
        block_ffn_dim_multiplier=1.0, block_auto_adjust_ff_dim=False, full_attn_idxs=[1, 3, 5],
    ),
}  # fmt: skip


def build(settings: dict[str, Any], seed: int = 0) -> Any:
    """A float32 model with random weights, scaled so that activations neither vanish nor explode."""
    module = importlib.import_module(f"mlx_lm.models.{settings['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(copy.deepcopy(settings)))
    mx.random.seed(seed)
    weights = [(name, _random(name, value, settings["model_type"])) for name, value in tree_flatten(model.parameters())]
    model.update(tree_unflatten(weights))
    model.set_dtype(mx.float32)
    mx.eval(model.parameters())
    return model


def open_model(module: Any, exit_layer: int | None = None, **options: Any) -> MlxModel:
    """The backend's model over `module`; `options` as MlxModel takes them. Tests here need no tokenizer."""
    return MlxModel(module, None, exit_layer=exit_layer, **options)  # type: ignore[arg-type]


def _random(name: str, value: mx.array, model_type: str) -> mx.array:
    if not mx.issubdtype(value.dtype, mx.floating):
        return value
    if value.ndim < 2:
        return value + 0.1 * mx.random.normal(value.shape)
    if "embed" in name:  # gemma and granite multiply the embedding themselves
        return mx.random.normal(value.shape) * (0.02 if model_type.startswith(("gemma", "granite")) else 0.1)
    return mx.random.normal(value.shape) * (1.5 / value.shape[-1] ** 0.5)
