"""Bytes that an export takes and gives, known before it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeinfer.backends.executorch.export.shape import DecoderShape

# Measured in 8da4w: exporting the demo (54.5 M weights) peaks at 0.78 GB, a model of 1.1 G weights at 5.7 GB.
_BASE_PEAK_BYTES: Final = 500_000_000  # torch and ExecuTorch's compiler
_PEAK_BYTES_PER_WEIGHT: Final[Mapping[str, float]] = {"8da4w": 5.5, "8da8w": 7, "fp32": 13}
_BITS: Final[Mapping[str, float]] = {"8da4w": 4.5, "8da8w": 8, "fp32": 32}
_GRAPH_BYTES_PER_LAYER: Final = 20_000  # norms, scales of rows, and the program itself


def peak_bytes(shape: DecoderShape, tier: str) -> int:
    """Memory that the exporting process takes at most."""
    return int(_BASE_PEAK_BYTES + _PEAK_BYTES_PER_WEIGHT[tier] * shape.n_params)


def program_bytes(shape: DecoderShape, tier: str) -> int:
    """The size of `model.pte`. The embedding lies beside the head, also where the model ties them."""
    vocabulary = shape.n_vocab * shape.hidden
    exact = shape.n_layers * shape.hidden * shape.head_dim * (shape.n_heads + shape.n_kv_heads)  # attn_output, attn_v
    others = shape.n_params - 2 * vocabulary - exact
    in_8_bits = 32 if tier == "fp32" else 8
    bits = _BITS[tier] * (others + vocabulary) + in_8_bits * (vocabulary + exact)
    return int(bits / 8) + _GRAPH_BYTES_PER_LAYER * shape.n_layers
