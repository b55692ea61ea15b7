"""Rounding a matrix to four bits so that its products change least on given inputs (GPTQ, arXiv 2210.17323).

A group's scale is the one of `_SCALES` with the least error, weighted by the squares of the inputs. Then column after
column is rounded, and what a column lost is added to the columns that follow, by how their inputs correlate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from edgeinfer.backends.executorch.export.q4_0 import GROUP, Q4Weight

_DAMPING = 0.3  # of the mean square of an input, added to each; measured in docs/phone-bundles.md
_SCALES = torch.linspace(0.7, 1.2, 21)  # candidates, as shares of the scale that clips nothing
_SMALLEST_SCALE = 1e-9  # of a group of zeros


def rounded(weight: Tensor, squares: Tensor) -> Q4Weight:
    """`weight` [out, in] with positive scales of 8 mantissa bits, as XNNPACK keeps them.

    `squares` [in, in] float64: the mean of x[i] * x[j] over the inputs x of the matrix.
    """
    weight = weight.clone()
    spread, diagonal = _error_spread(squares)
    values = torch.zeros_like(weight, dtype=torch.int8)
    scales = torch.zeros(weight.shape[0], weight.shape[1] // GROUP)
    for group in range(scales.shape[1]):
        at = slice(group * GROUP, (group + 1) * GROUP)
        columns, near = weight[:, at].clone(), spread[at, at]
        scales[:, group] = scale = _best_scale(columns, diagonal[at])
        errors = torch.zeros_like(columns)
        for index in range(GROUP):
            value = _nearest(columns[:, index], scale)
            values[:, at.start + index] = value.to(torch.int8)
            errors[:, index] = (columns[:, index] - value * scale) / near[index, index]
            columns[:, index + 1 :] -= errors[:, index, None] * near[index, None, index + 1 :]
        weight[:, at.stop :] -= errors @ spread[at, at.stop :]
    return Q4Weight(values.numpy(), scales.numpy())


def _error_spread(squares: Tensor) -> tuple[Tensor, Tensor]:
    """How a column's error spreads to those after it, [in, in] upper triangular, and the damped squares, [in]."""
    diagonal = squares.diagonal()
    damped = squares + torch.diag(torch.full_like(diagonal, max(_DAMPING * float(diagonal.mean()), 1e-12)))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).float(), damped.diagonal().float()


def _best_scale(columns: Tensor, weights: Tensor) -> Tensor:
    """For each row of `columns` [out, GROUP], the scale with the least error weighted by `weights` [GROUP]."""
    largest = torch.maximum(-columns.amin(1) / 8, columns.amax(1) / 7).clamp_min(_SMALLEST_SCALE)
    best, least = largest, torch.full_like(largest, torch.inf)
    for share in _SCALES:
        scale = (largest * share).bfloat16().float()
        lost = columns - _nearest(columns, scale[:, None]) * scale[:, None]
        error = (lost * lost) @ weights
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def _nearest(columns: Tensor, scale: Tensor) -> Tensor:
    return torch.clamp(torch.round(columns / scale), -8, 7)
