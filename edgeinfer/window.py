"""The window: which positions a query sees, where a key is kept, how far a forward may go. Integers only.

A window over a chat is StreamingLLM's sinks plus recent keys (arXiv 2309.17453), with two differences: keys keep their
true positions, and eviction takes whole blocks between rounds, so any chunking of the same tokens sees the same keys.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgeinfer.errors import UsageError

MIN_BLOCK = 64  # with smaller blocks, clipped rounds cost more than the finer window gains


@dataclass(frozen=True, slots=True)
class WindowPolicy:
    """The first `sink` positions stay, and at most `window` recent ones; `limit` is the first unusable position.

    Raises UsageError when the integers do not fit together.
    """

    window: int
    sink: int
    block: int
    limit: int

    def __post_init__(self) -> None:
        if self.block < 1 or self.sink < 0:
            raise UsageError(
                f"block must be at least 1 and sink at least 0; received block {self.block}, sink {self.sink}"
            )
        if self.window % self.block or self.window < 4 * self.block:
            raise UsageError(
                f"window must be a multiple of block and >= 4 blocks; received window {self.window}, block {self.block}"
            )
        if self.sink + self.window > self.limit:
            raise UsageError(
                f"sink + window must not pass the model's {self.limit} positions; received {self.sink} + {self.window}",
                hint="lower --context or --sink",
            )

    @property
    def slots(self) -> int:
        return self.sink + self.window

    def slot(self, position: int) -> int:
        """The place of `position` in a ring of `slots`."""
        return position if position < self.sink else self.sink + position % self.window

    def oldest(self, query: int) -> int:
        """The oldest position that is recent for `query`; the sinks are visible too."""
        return max(0, self.block * (query // self.block) - (self.window - self.block))

    def visible(self, query: int, key: int) -> bool:
        return key <= query and (key < self.sink or key >= self.oldest(query))

    def room(self, length: int) -> int:
        """How many rows one forward may add at `length` committed positions; 0 at the limit."""
        free = self.window - length if length < self.window else self.block - length % self.block
        return min(free, self.limit - length)

    def evicted(self, length: int) -> range:
        """Positions that no query at `length` or later can see: all of them are out of the cache by then."""
        return range(self.sink, max(self.sink, self.oldest(length)))

    def can_rewind(self, length: int, target: int) -> bool:
        """Whether every key that a query at `target` sees is still held by a cache of `length` positions.

        Going back to 0 is clearing, which is always possible.
        """
        return target == 0 or (0 <= target <= length and self.evicted(length) == self.evicted(target))
