"""A prompt as a sequence of rounds that want no row, or the last one's."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.errors import UsageError
from edgeinfer.protocols import Cache, Row
from edgeinfer.types import Tokens

__all__ = ["chunk_size", "prefill"]


def chunk_size(cache: Cache, n_tokens: int, max_rows: int | None = None) -> int:
    """How many of `n_tokens` the next ask adds to `cache`; at most `max_rows`.

    Chunks end at multiples of the chunk size, wherever the prompt began. So a prompt whose front is already cached
    runs in the same shapes as one that is not, and is rounded alike. Tokens that `max_rows` allows run as they do
    without it. Shorter chunks end at every boundary of the window's blocks, too.
    """
    grid = cache.chunk_rows
    if max_rows is not None and max_rows < n_tokens:
        grid = within_blocks(min(grid, max_rows), cache.policy.block)
    return min(n_tokens, cache.policy.room(cache.length), grid - cache.length % grid)


def within_blocks(most: int, block: int) -> int:
    """The largest number up to `most` that divides `block`, or is a multiple of it."""
    if most >= block:
        return most - most % block
    return next(n for n in range(most, 0, -1) if block % n == 0)


def prefill(cache: Cache, tokens: Tokens) -> Row:
    """Add `tokens` (one or more) to `cache`; the row of the last one.

    Raises UsageError for no tokens, or for more than fit below the limit: nothing is added then. When the engine fails,
    the chunks before the failure stay, and `length` counts them.
    """
    left = cache.policy.limit - cache.length
    if not 0 < len(tokens) <= left:
        raise UsageError(f"{len(tokens)} tokens cannot be added: 1 to {left} positions are left below the limit")
    at = 0
    rows: Sequence[Row] = ()
    while at < len(tokens):
        n = chunk_size(cache, len(tokens) - at)
        step = cache.begin(n)
        try:
            rows = step.verify(tokens[at : at + n], int(at + n == len(tokens)))
            step.commit(n)
        finally:
            step.rollback()
        at += n
    return rows[0]
