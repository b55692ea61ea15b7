"""Whether the rows of several conversations of a model can share a forward. It is tried once, when they are planned.

Most stock families take one RoPE offset for each row. Some do arithmetic of their own with it, or attend by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgeinfer.backends.mlx.rows import engine_error
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Ask
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.mlx.cache import MlxCache
    from edgeinfer.backends.mlx.model import MlxModel

_POLICY: Final = WindowPolicy(window=64, sink=0, block=16, limit=128)
_LENGTHS: Final = (40, 7)  # of the conversations before the trial
_AGREES: Final = 5e-2  # of the largest logit: 16-bit products of one row and of several differ by less


def refusal(model: MlxModel) -> str:
    """Why conversations of this model run one after the other; "" when they share a forward."""
    caches = [model.new_cache(_POLICY) for _ in _LENGTHS]
    asked = [[(5 + 3 * n) % model.n_vocab, (7 + n) % model.n_vocab] for n in _LENGTHS]
    try:
        for cache, n in zip(caches, _LENGTHS, strict=True):
            prefill(cache, [(3 + position) % model.n_vocab for position in range(n)])
        alone = [rows for cache, ids in zip(caches, asked, strict=True) for rows in _rows(model, [cache], [ids])]
        together = _rows(model, caches, asked)
    except Exception as error:  # what a family's own code raises is not one class
        return str(engine_error(error))
    finally:
        for cache in caches:
            cache.close()
    off = max(float(np.abs(one - other).max() / np.abs(one).max()) for one, other in zip(alone, together, strict=True))
    return "" if off <= _AGREES else f"its rows in a shared forward differ by {off:.2g} of the largest logit"


def _rows(model: MlxModel, caches: list[MlxCache], asked: list[list[int]]) -> list[np.ndarray]:
    """The rows of each, by one forward that is rolled back."""
    steps = [cache.begin(len(ids)) for cache, ids in zip(caches, asked, strict=True)]
    try:
        found = model.run_together([Ask(step, ids, len(ids)) for step, ids in zip(steps, asked, strict=True)])
        return [np.stack([row.numpy() for row in rows]) for rows in found]
    finally:
        for step in steps:
            step.rollback()
