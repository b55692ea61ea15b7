"""What the exporter must know of a model before it reads weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edgeinfer.shape import ModelShape, shape_of


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """A Llama-like decoder. `exit_layer`: drafting runs layers [0, exit_layer); None: the model does not draft."""

    architecture: str
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ffn: int
    n_vocab: int
    limit: int  # positions
    norm_eps: float
    exit_layer: int | None
    tied: bool  # the head uses the weights of the embedding

    @property
    def of_model(self) -> ModelShape:
        return shape_of(self)


def rope_frequencies(base: float, head_dim: int) -> npt.NDArray[np.float64]:
    """Radians per position, [head_dim / 2] (arXiv 2104.09864)."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float64) / head_dim
    return np.asarray(base**-exponents, np.float64)


def llama3_divisors(
    frequencies: npt.NDArray[np.float64], factor: float, low: float, high: float, original_limit: float
) -> npt.NDArray[np.float64]:
    """What Llama 3.1's `rope_type: llama3` divides each frequency by, [head_dim / 2].

    Wavelengths below `original_limit / high` stay, those above `original_limit / low` are divided by `factor`, and
    between them the frequency is interpolated (Llama 3.1 model card, `rope_scaling` in config.json).
    """
    turns = original_limit * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / (kept + (1.0 - kept) / factor), np.float64)
