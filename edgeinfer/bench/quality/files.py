"""Copies of a model in other tiers, made by llama.cpp's quantizer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.shape import shape_from_gguf

__all__ = ["layer_types", "quantized"]


def quantized(source: Path, tier: str, folder: Path, *, name: str = "", types: Mapping[str, str] | None = None) -> Path:
    """`source` in `tier`, in `folder`. `types` are patterns of tensor names with types that differ from the tier's.

    A quantized file is quantized again, which loses more than quantizing the original would.
    """
    from edgeinfer.backends.gguf.quantize import quantize

    out = folder / f"{source.stem.partition('.')[0]}.{name or tier}.gguf"
    quantize(source, out, tier, types=types or {}, requantize=True)
    return out


def layer_types(source: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """The tensors that a sweep stores in 8 bits: none, then the embedding with the head, then each layer."""
    yield "none", {}
    yield "embedding and head", {r"^(token_embd|output)\.weight$": "Q8_0"}
    for layer in range(shape_from_gguf(read_header(source)).n_layers):
        yield f"layer {layer}", {rf"^blk\.{layer}\.": "Q8_0"}
