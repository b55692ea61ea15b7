"""Gumbel noise keyed by (seed, index in the answer, token id): the same key gives the same noise, in any order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.decode.arithmetic import log

if TYPE_CHECKING:
    import numpy.typing as npt

SPAN = 41.0
"""No two noises are further apart: 52 bits of uniform give Gumbel values from -3.61 to 36.74."""

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: an odd step that spreads neighboring keys
_STEP = np.uint64(_GOLDEN)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)  # the two multipliers of splitmix64's finalizer (Steele et al., OOPSLA 2014)
_SECOND = np.uint64(0x94D049BB133111EB)


def gumbel(uniforms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Standard Gumbel noise made of `uniforms` [n]: [n] float64, all finite."""
    return -log(-log(uniforms))


def uniform(seed: int, index: int, tokens: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
    """Uniform in the open interval (0, 1), multiples of 2^-52 plus a half step: [n] float64."""
    key = _mix(np.array([seed & _MASK], np.uint64))
    key = _mix(key + np.array([index & _MASK], np.uint64) * _STEP)
    bits = _mix(key + tokens.astype(np.uint64) * _STEP)
    return ((bits >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix(z: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """A bijection of 64 bits in which every input bit moves about half of the output bits."""
    z = z + _STEP
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))
