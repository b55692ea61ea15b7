"""Tiers: how matrices and activations are rounded.

    8da4w   4-bit weights with a scale for 32 values. Activations are rounded to 8 bits, each token by its own range.
            The embedding, `attn_v` and `attn_output` have 8-bit weights: these two matrices lose most.
    8da8w   8-bit weights with a scale for each row; activations and embedding as in 8da4w
    fp32    nothing is rounded
    fp16    for Core ML: weights and activations in float16

8da4w stores what Q4_0 stores, but XNNPACK takes positive scales only. The values and scales of a Q4_0 file are kept; in
a block whose scale is negative, the largest value shrinks by an eighth. Other weights are rounded by Q4_0's rule, and
then again by calibrate.py.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torchao.quantization import IntxUnpackedToInt8Tensor

from edgeinfer.backends.executorch.export.q4_0 import GROUP, Q4Weight, q4_0_of, with_positive_scales
from edgeinfer.backends.executorch.export.source import Source
from edgeinfer.errors import ArtifactError

Tier = Literal["8da4w", "8da8w", "fp32", "fp16"]
_FLOAT = ("fp32", "fp16")  # Core ML rounds to float16 when it lowers
IN_8_BITS = ("attn_v", "attn_output")
_DYNAMIC = "int8_asym_per_token"


def linear_weight(source: Source, name: str, tier: Tier) -> torch.Tensor:
    """[out, in], quantized as `tier` says. Raises ArtifactError where rows do not divide into groups."""
    if tier in _FLOAT:
        return _floats(source, name)
    if tier == "8da8w" or name.endswith(IN_8_BITS):
        return _in_rows(_floats(source, name), _DYNAMIC)
    return four_bit_tensor(with_positive_scales(source.q4_0(name) or _rounded(source, name)))


def four_bit_tensor(weight: Q4Weight) -> torch.Tensor:
    """`weight` as torchao holds it. XNNPACK takes positive scales only."""
    return IntxUnpackedToInt8Tensor(
        torch.from_numpy(weight.values),
        torch.from_numpy(weight.scales),
        torch.zeros(weight.scales.shape, dtype=torch.int8),
        torch.int4,
        (1, GROUP),
        torch.float32,
        _DYNAMIC,
    )


def rows_of(weight: torch.Tensor, ids: npt.NDArray[np.int32]) -> torch.Tensor:
    """The rows `ids` of a matrix, as they are quantized."""
    chosen = torch.from_numpy(ids.astype(np.int64))
    if not isinstance(weight, IntxUnpackedToInt8Tensor):
        return weight.detach()[chosen]
    return IntxUnpackedToInt8Tensor(
        weight.qdata[chosen],
        weight.scale[chosen],
        weight.zero_point[chosen],
        weight.target_dtype,
        weight.block_size,
        weight.dtype,
        weight.activation_quantization,
    )


def has_four_bits(weight: torch.Tensor) -> bool:
    return isinstance(weight, IntxUnpackedToInt8Tensor) and weight.target_dtype == torch.int4


def embedding_weight(source: Source, tier: Tier) -> torch.Tensor:
    values = _floats(source, "token_embd")
    return values if tier in _FLOAT else _in_rows(values, None)


def _rounded(source: Source, name: str) -> Q4Weight:
    values = source.floats(name)
    if values.shape[1] % GROUP:
        raise ArtifactError(
            f"{source.path}: rows of {name} have {values.shape[1]} values; 8da4w needs a multiple of {GROUP}",
            hint="--tier 8da8w",
        )
    return q4_0_of(values)


def _floats(source: Source, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(source.floats(name), np.float32))


def _in_rows(values: torch.Tensor, activations: str | None) -> torch.Tensor:
    """8 bits with one scale for each row."""
    return IntxUnpackedToInt8Tensor.from_hp(
        values, (1, values.shape[1]), torch.int8, activation_quantization=activations
    )
