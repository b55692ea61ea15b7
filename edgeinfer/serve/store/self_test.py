"""Tries the prefix cache on the user's model before it is used: does a restored cache give the rows of a fresh one?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from edgeinfer.errors import EngineError
from edgeinfer.prefill import prefill
from edgeinfer.protocols import BlockCache

if TYPE_CHECKING:
    from edgeinfer.types import Logits

_BLOCK: Final = 12  # tokens
_N_BLOCKS: Final = 2
_N_AFTER: Final = 3  # tokens that are run after the blocks


def self_test(cache: BlockCache, n_vocab: int) -> str:
    """Copy two blocks out of the empty `cache` and back. Returns what was wrong, or "".

    The same tokens run in the same shapes before and after, so the rows must be equal bit for bit on every engine.
    Costs about thirty tokens; the cache is empty again.
    """
    n = _BLOCK * _N_BLOCKS
    stride = max(1, n_vocab // (n + _N_AFTER + 1))
    tokens = [(1 + index) * stride % n_vocab for index in range(n + _N_AFTER)]
    try:
        prefill(cache, tokens[:n])
        blocks = cache.snapshot([range(start, start + _BLOCK) for start in range(0, n, _BLOCK)])
        expected = _rows(cache, tokens[n:])
        cache.rewind(0)
        cache.restore([block for block in blocks if block is not None])
        if cache.length != n:
            return f"{cache.length} positions came back instead of {n}"
        found = _rows(cache, tokens[n:])
    except EngineError as error:
        return str(error)
    finally:
        cache.rewind(0)
    if not np.array_equal(found, expected):
        return f"the rows after a restored block differ by {np.abs(found - expected).max():.3g}"
    return ""


def _rows(cache: BlockCache, tokens: list[int]) -> Logits:
    return np.stack([prefill(cache, [token]).numpy() for token in tokens])
