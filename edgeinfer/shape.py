"""The shape of a model, from which its memory and speed follow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["LayerKv", "ModelShape", "UniformDecoder", "shape_of"]


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


class UniformDecoder(Protocol):
    """A description of a dense decoder whose layers all have the same shape."""

    @property
    def architecture(self) -> str: ...
    @property
    def n_layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def n_heads(self) -> int: ...
    @property
    def n_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def n_ffn(self) -> int: ...
    @property
    def n_vocab(self) -> int: ...
    @property
    def limit(self) -> int: ...


def shape_of(decoder: UniformDecoder) -> ModelShape:
    """Only matrices count as weights. The head is a matrix of its own, also where it is tied to the embedding."""
    attention = 2 * decoder.hidden * decoder.head_dim * (decoder.n_heads + decoder.n_kv_heads)
    layer = attention + 3 * decoder.hidden * decoder.n_ffn
    n_params = decoder.n_layers * layer + 2 * decoder.n_vocab * decoder.hidden
    return ModelShape(
        architecture=decoder.architecture,
        n_layers=decoder.n_layers,
        hidden=decoder.hidden,
        n_heads=decoder.n_heads,
        n_ffn=decoder.n_ffn,
        n_vocab=decoder.n_vocab,
        limit=decoder.limit,
        kv=(LayerKv(decoder.n_layers, decoder.n_kv_heads, decoder.head_dim),),
        n_params=n_params,
        n_active_params=n_params,
    )
