"""Choosing a token from a row: bias, penalties, temperature, truncation, then the Gumbel-max trick with keyed noise.

The pick at an index of the answer depends on the row, the seed and the index alone, so every way of computing the
row gives the same token, on every processor. Order: bias, repetition penalty, presence and frequency penalties,
temperature, top-k, top-p, min-p; each renormalizes for the next.

NumPy's exp and log are fast, but their last bit depends on the processor. They decide where the answer is clear, and
arithmetic.py where it is close. mobile/runtime/decode/sampler.cpp picks the same tokens.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.decode import arithmetic
from edgeinfer.decode.noise import SPAN, gumbel, uniform
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.types import Sampling, Tokens

if TYPE_CHECKING:
    import numpy.typing as npt

    from edgeinfer.types import Logits

_GROUP = 128  # logits per group when looking for a floor under the top k
_NUCLEUS_START, _NUCLEUS_STEP = 7.0, 3.0  # how far below the top the search for a nucleus looks first, and then

# Far more than the error of NumPy's functions: 3 ulp of float32 in exp, and of float64 in two logarithms.
EXP_SLACK = 2e-6  # relative
LOG_SLACK = 1e-9
_WEIGHT_ONE = 1 << 40  # weights are whole numbers: their sum is exact in any order, up to 2^23 tokens


class Sampler:
    """`greedy` says that the pick is the row's own argmax, so that the row need not be copied to the host."""

    def __init__(self, sampling: Sampling) -> None:
        _check(sampling)
        self.sampling = sampling
        self._repeats = sampling.repeat_penalty != 1.0 and sampling.repeat_last_n > 0
        self._counts = sampling.presence_penalty != 0.0 or sampling.frequency_penalty != 0.0
        self._changes = self._repeats or self._counts or bool(sampling.logit_bias)
        self._log_min_p = float(arithmetic.log(np.array([sampling.min_p]))[0]) if sampling.min_p else -np.inf
        self.greedy = sampling.temperature == 0.0 and not self._changes

    def pick(self, row: Logits, index: int, context: Tokens) -> int:
        """The token at `index` of the answer. row: [V] float32; `context` ends with the token before it."""
        row = self._adjusted(row, index, context)
        if self.sampling.temperature == 0.0:
            return int(row.argmax())
        ids, scaled = self._kept(row)
        if len(ids) == 1:
            return int(ids[0])
        return int(ids[_winner(scaled, uniform(self.sampling.seed, index, ids))])

    def probabilities(
        self, row: Logits, context: Tokens, index: int = 0
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """What `pick` draws from: token ids [n] and their probabilities [n] float64, most likely first.

        Tokens less likely than e^-41 of the first are left out, because no noise could lift them.
        """
        row = self._adjusted(row, index, context)
        if self.sampling.temperature == 0.0:
            return np.array([row.argmax()]), np.ones(1)
        ids, scaled = self._kept(row)
        order = np.argsort(-scaled, kind="stable")
        weights = np.exp(scaled[order])
        return ids[order], weights / weights.sum()

    def looks_back(self, context: Tokens, index: int) -> list[int]:
        """The part of `context` that the pick at `index` of the answer depends on."""
        n = max(self.sampling.repeat_last_n if self._repeats else 0, index if self._counts else 0)
        return newest(context, n)

    def _adjusted(self, row: Logits, index: int, context: Tokens) -> Logits:
        """The row with its bias and penalties.

        CTRL's penalty (arXiv 1909.05858) divides a repeated token's logit, or multiplies it below zero. The other two
        are OpenAI's: one is subtracted for a token that the answer holds, the other for each occurrence.
        """
        if not self._changes:
            return row
        how = self.sampling
        row = row.copy()
        for token, bias in how.logit_bias:
            row[token] += np.float32(bias)
        if self._repeats:
            seen = newest(context, how.repeat_last_n)
            penalty, values = np.float32(how.repeat_penalty), row[seen]
            row[seen] = np.where(values > 0, values / penalty, values * penalty)
        if self._counts and index:
            said, times = np.unique(newest(context, index), return_counts=True)
            row[said] -= (how.presence_penalty + how.frequency_penalty * times).astype(np.float32)
        return row

    def _kept(self, row: Logits) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
        """Token ids that truncation leaves [n], and their logits over temperature [n] float64, the highest at 0."""
        how = self.sampling
        top = float(row.max())
        if not np.isfinite(top):
            raise EngineError(f"the engine gave logits that cannot be sampled: the largest is {top}")
        floor = top - SPAN * how.temperature
        if how.top_k and how.top_k < len(row):
            ids = _largest(row, how.top_k, floor)
            if how.top_p < 1.0:
                kept = _relative(row[ids], top, how.temperature)
                ids = ids[: _n_in_nucleus(kept, kept, _rough_sum(np.exp(kept)), how.top_p)]
        elif how.top_p < 1.0:
            ids = _nucleus_of_all(row, top, how)
        else:
            likely_floor = top + how.temperature * self._log_min_p
            ids = np.flatnonzero(row >= max(floor, likely_floor - 1e-3))  # loose: float64 decides below
        scaled = (row[ids].astype(np.float64) - top) / how.temperature
        if how.min_p > 0.0:
            likely = scaled >= self._log_min_p
            ids, scaled = ids[likely], scaled[likely]
        return ids, scaled


def newest(context: Tokens, n: int) -> list[int]:
    """The last `n` tokens, or all where there are fewer."""
    return list(context[-n:]) if n else []


def _largest(row: Logits, k: int, floor: float) -> npt.NDArray[np.intp]:
    """Ids of the `k` largest logits that are >= `floor`, largest first, ties by the lower id. Sorts only a few.

    With at least k groups, the k-th largest of the group maxima cannot be above the k-th largest logit.
    """
    n_groups = len(row) // _GROUP
    if n_groups > k:
        groups = row[: n_groups * _GROUP].reshape(_GROUP, n_groups)  # a group is a column
        maxima = groups.max(axis=0)
        floor = max(floor, float(np.partition(maxima, n_groups - k)[n_groups - k]))
        live = np.flatnonzero(maxima >= floor)
        ranks, columns = np.nonzero(groups[:, live] >= floor)
        rest = np.flatnonzero(row[n_groups * _GROUP :] >= floor) + n_groups * _GROUP
        ids = np.concatenate([ranks * n_groups + live[columns], rest])
    else:
        ids = np.flatnonzero(row >= floor)
    return ids[np.argsort(-row[ids], kind="stable")[:k]]


def _nucleus_of_all(row: Logits, top: float, how: Sampling) -> npt.NDArray[np.intp]:
    """The nucleus of the whole row: lower a floor until the weight above it suffices, then sort what is above."""
    relative = _relative(row, top, how.temperature)
    weights = np.exp(relative)
    total = _rough_sum(weights)
    depth = _NUCLEUS_START
    while True:
        ids = np.flatnonzero(relative >= -depth)
        if depth > SPAN or _rough_sum(weights[ids]) >= (how.top_p + EXP_SLACK) * total:
            break
        depth += _NUCLEUS_STEP
    ids = ids[np.argsort(-row[ids], kind="stable")]
    return ids[: _n_in_nucleus(relative[ids], relative, total, how.top_p)]


def _n_in_nucleus(largest: Logits, every: Logits, total: float, top_p: float) -> int:
    """How many of `largest` it takes to hold `top_p` of the weight of `every` (arXiv 1904.09751).

    Both are relative to the top; `largest` is in order. `total` is the rough weight of `every`.
    """
    reached = np.cumsum(np.exp(largest), dtype=np.float64)
    least, most = np.searchsorted(reached, [(top_p - EXP_SLACK) * total, (top_p + EXP_SLACK) * total])
    if least == most:
        return int(least) + 1
    return int(np.searchsorted(np.cumsum(_weights(largest)), top_p * float(_weights(every).sum()))) + 1


def _relative(logits: Logits, top: float, temperature: float) -> Logits:
    """How far logits are below the top, over the temperature: [n] float32."""
    relative: Logits = (logits - np.float32(top)) * np.float32(1.0 / temperature)
    return relative


def _rough_sum(weights: npt.NDArray[np.float32]) -> float:
    return float(weights.sum(dtype=np.float64))


def _weights(relative: Logits) -> npt.NDArray[np.int64]:
    """Unnormalized probabilities [n], that of the top token _WEIGHT_ONE; 0 below e^-27.7 of it."""
    return (arithmetic.exp(np.maximum(relative, -64.0, dtype=np.float64)) * _WEIGHT_ONE).astype(np.int64)


def _winner(scaled: npt.NDArray[np.float64], uniforms: npt.NDArray[np.float64]) -> int:
    """Where `scaled` [n] and the Gumbel noise of `uniforms` [n] have the largest sum; the first of equal ones."""
    rough = scaled - np.log(-np.log(uniforms))
    close = np.flatnonzero(rough >= rough.max() - LOG_SLACK)
    if len(close) == 1:
        return int(close[0])
    return int(close[(scaled[close] + gumbel(uniforms[close])).argmax()])


def _check(sampling: Sampling) -> None:
    bounds = (
        ("temperature", sampling.temperature, 0.0, 100.0),
        ("top-k", sampling.top_k, 0, float("inf")),
        ("top-p", sampling.top_p, 1e-6, 1.0),
        ("min-p", sampling.min_p, 0.0, 1.0),
        ("repeat-penalty", sampling.repeat_penalty, 1e-3, 1e3),
        ("repeat-last-n", sampling.repeat_last_n, 0, float("inf")),
        ("presence-penalty", sampling.presence_penalty, -2.0, 2.0),
        ("frequency-penalty", sampling.frequency_penalty, -2.0, 2.0),
    )
    if 0.0 < sampling.temperature < 1e-3:
        raise UsageError(f"temperature must be 0 (greedy) or at least 0.001; received {sampling.temperature:g}")
    for name, value, low, high in bounds:
        if not low <= value <= high:
            raise UsageError(f"{name} must be from {low:g} to {high:g}; received {value:g}")
