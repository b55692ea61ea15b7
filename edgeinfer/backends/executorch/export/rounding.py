"""Rounding a matrix to four bits so that its products change least on given inputs (GPTQ, arXiv 2210.17323).

A group's scale is the one of `_SCALES` with the least error, weighted by the squares of the inputs. Then column after
column is rounded, and what a column lost is added to the columns that follow, by how their inputs correlate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from edgeinfer.backends.executorch.export.q4_0 import GROUP, Q4Weight

SPAN = 2048  # columns that make up for each other; time grows with its square
_DAMPING = 0.3  # of the mean square of an input, added to each; measured in docs/phone-bundles.md
_SCALES = torch.linspace(0.7, 1.2, 21)  # candidates, as shares of the scale that clips nothing
_SMALLEST_SCALE = 1e-9  # of a group of zeros


@dataclass(frozen=True, slots=True)
class Spread:
    """How the error of a column of [start, start + n) spreads to those after it."""

    start: int
    shares: Tensor  # [n, n], upper triangular
    squares: Tensor  # [n], mean square of each input, damped


def spreads_of(inputs: Tensor) -> tuple[Spread, ...]:
    """`inputs` [samples, in] of a matrix, in spans of at most SPAN columns."""
    return tuple(_spread(start, inputs[:, start : start + SPAN].double()) for start in range(0, inputs.shape[1], SPAN))


def rounded(weight: Tensor, spreads: Sequence[Spread]) -> Q4Weight:
    """`weight` [out, in] with positive scales of 8 mantissa bits, as XNNPACK keeps them."""
    values = torch.empty_like(weight, dtype=torch.int8)
    scales = torch.empty(weight.shape[0], weight.shape[1] // GROUP)
    for spread in spreads:
        columns = weight[:, spread.start : spread.start + len(spread.squares)].clone()
        for start in range(0, columns.shape[1], GROUP):
            at, whole = slice(start, start + GROUP), slice(spread.start + start, spread.start + start + GROUP)
            scale = _best_scale(columns[:, at], spread.squares[at])
            scales[:, whole.start // GROUP] = scale
            values[:, whole], errors = _rounded_group(columns[:, at].clone(), scale, spread.shares[at, at])
            columns[:, at.stop :] -= errors @ spread.shares[at, at.stop :]
    return Q4Weight(values.numpy(), scales.numpy())


def _rounded_group(columns: Tensor, scale: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Values and errors [out, GROUP] of the columns of one group, in turn. Changes `columns`."""
    values, errors = torch.empty_like(columns, dtype=torch.int8), torch.empty_like(columns)
    for index in range(GROUP):
        value = _nearest(columns[:, index], scale)
        values[:, index] = value.to(torch.int8)
        errors[:, index] = (columns[:, index] - value * scale) / shares[index, index]
        columns[:, index + 1 :] -= errors[:, index, None] * shares[index, None, index + 1 :]
    return values, errors


def _spread(start: int, inputs: Tensor) -> Spread:
    products = inputs.T @ inputs / len(inputs)
    damping = max(_DAMPING * float(products.diagonal().mean()), 1e-12)
    products += torch.diag(torch.full_like(products.diagonal(), damping))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(products))
    return Spread(start, torch.linalg.cholesky(inverse, upper=True).float(), products.diagonal().float())


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
