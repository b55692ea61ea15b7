"""Checks that every backend makes before it copies blocks of K and V out of a cache or into one."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.errors import EngineError
from edgeinfer.protocols import Cache


def positions_in(blocks: Sequence[bytes], position_bytes: int, cache: Cache) -> list[int]:
    """How many positions each block holds. Raises EngineError unless they fit the cache, which must be empty."""
    if cache.length:
        raise EngineError(f"a restore into a cache of {cache.length} positions: rewind it to 0 first")
    if any(not block or len(block) % position_bytes for block in blocks):
        raise EngineError(f"a block is not a number of positions of {position_bytes} bytes")
    counts = [len(block) // position_bytes for block in blocks]
    if not 0 < sum(counts) <= cache.policy.window:
        raise EngineError(f"{sum(counts)} positions do not fit into a window of {cache.policy.window}")
    return counts


def is_held(span: range, length: int, evicted: range) -> bool:
    """Whether a cache of `length` positions still holds all of `span`; slots of `evicted` positions may be reused."""
    before, after = span.stop <= evicted.start, span.start >= evicted.stop
    return span.stop <= length and (not evicted or before or after)
