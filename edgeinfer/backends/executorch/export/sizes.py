"""The peak memory of an export, known before it begins. `exports.program_bytes` has the size of the result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeinfer.backends.executorch.export.shape import DecoderShape

# Measured in 8da4w: exporting the demo (54.5 M weights) peaks at 0.78 GB, a model of 1.1 G weights at 5.7 GB.
_BASE_PEAK_BYTES: Final = 500_000_000  # torch and ExecuTorch's compiler
_PEAK_BYTES_PER_WEIGHT: Final[Mapping[str, float]] = {"8da4w": 5.5, "8da8w": 7, "fp32": 13, "fp16": 13}


def peak_bytes(shape: DecoderShape, tier: str) -> int:
    """The most memory that the exporting process takes."""
    return int(_BASE_PEAK_BYTES + _PEAK_BYTES_PER_WEIGHT[tier] * shape.of_model.n_params)
