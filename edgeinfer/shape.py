"""The shape of a model, from which its memory and speed follow."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LayerKv", "ModelShape"]


@dataclass(frozen=True, slots=True)
class LayerKv:
    """A group of layers that keep K/V alike."""

    n_layers: int
    n_kv_heads: int
    head_dim: int  # the mean of a key's and a value's, rounded up
    window: int = 0  # the model's own sliding window, in tokens; 0: full attention


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Layers that share another layer's K/V are in no `kv` group."""

    architecture: str  # the GGUF architecture name
    n_layers: int
    hidden: int
    n_heads: int
    n_ffn: int
    n_vocab: int
    limit: int  # last usable position + 1
    kv: tuple[LayerKv, ...]
    n_params: int
    n_active_params: int  # read per token: the experts that run, without per-layer embeddings
    short_limit: int = 0  # the limit of a context no larger than this (Phi's long RoPE factors); 0: none
