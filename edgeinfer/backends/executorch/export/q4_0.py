"""Matrices of four bits, as Q4_0 and 8da4w hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float32]

GROUP = 32  # values of one row that share a scale in Q4_0 and in 8da4w
_SMALLEST_SCALE = np.float32(1e-30)  # of a block of zeros


@dataclass(frozen=True, slots=True)
class Q4Weight:
    """A matrix as Q4_0 holds it: `values` [out, in] int8 in [-8, 7], `scales` [out, in / 32] float32."""

    values: npt.NDArray[np.int8]
    scales: Floats


def q4_0_of(values: Floats) -> Q4Weight:
    """`values` [out, in] rounded as llama.cpp rounds to Q4_0: the value of largest magnitude becomes -8."""
    from gguf import GGMLQuantizationType, quantize

    return unpacked_q4_0(quantize(values, GGMLQuantizationType.Q4_0))


def unpacked_q4_0(blocks: npt.NDArray[np.uint8]) -> Q4Weight:
    """`blocks` [out, bytes of a row]: for 32 values, a float16 scale and 16 bytes of two values each."""
    n_out = blocks.shape[0]
    parts = blocks.reshape(n_out, -1, 18)
    scales = np.ascontiguousarray(parts[:, :, :2]).view(np.float16)[:, :, 0].astype(np.float32)
    nibbles = parts[:, :, 2:]
    values = np.concatenate([nibbles & 15, nibbles >> 4], axis=-1).astype(np.int8) - np.int8(8)
    return Q4Weight(values.reshape(n_out, -1), scales)


def with_positive_scales(weight: Q4Weight) -> Q4Weight:
    """The same matrix with the sign of each scale moved into its values. A value of 8 becomes 7."""
    is_negative = np.repeat(weight.scales < 0, GROUP, axis=1)
    values = np.where(is_negative, np.minimum(-weight.values.astype(np.int16), 7), weight.values)
    return Q4Weight(values.astype(np.int8), np.maximum(np.abs(weight.scales), _SMALLEST_SCALE))
