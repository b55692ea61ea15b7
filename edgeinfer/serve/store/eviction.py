"""Which block goes first when a budget is full: a leaf of the tree, and first one that was never found again.

There is no tree to walk. A chain is touched from its leaf to its root, so a block always stands before its parent in
the order of use, and the least recently used one has no children left. Blocks that were found again are protected
(segmented LRU, Karedla et al. 1994): a request that comes once cannot push out a chat that continues.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

PROTECTED: Final = 0.75  # of the budget, at most, for blocks that were found again


class LeafLru:
    """The sizes of blocks by digest, at most `budget_bytes` in all."""

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.n_bytes = 0
        self._new: OrderedDict[bytes, int] = OrderedDict()  # least recently used first
        self._reused: OrderedDict[bytes, int] = OrderedDict()
        self._reused_bytes = 0

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._new or digest in self._reused

    def __len__(self) -> int:
        return len(self._new) + len(self._reused)

    def found(self, chain: Sequence[bytes]) -> None:
        """The blocks of `chain`, root first, were used again."""
        for digest in reversed(chain):
            if digest in self._new:
                self._reused[digest] = self._new.pop(digest)
                self._reused_bytes += self._reused[digest]
            elif digest in self._reused:
                self._reused.move_to_end(digest)
        while self._reused_bytes > PROTECTED * self.budget_bytes:
            digest, n_bytes = self._reused.popitem(last=False)
            self._reused_bytes -= n_bytes
            self._new[digest] = n_bytes

    def add(self, chain: Sequence[bytes], n_bytes: int) -> list[bytes] | None:
        """Add the last block of `chain`, whose others are here. The digests that must go for it, leaves first.

        None: it has no room without its own chain, and nothing has changed.
        """
        self._refresh(chain)
        if chain[-1] in self:
            return []
        victims = self._victims(set(chain), self.n_bytes + n_bytes - self.budget_bytes)
        if victims is None:
            return None
        for digest in victims:
            self.remove(digest)
        self._new[chain[-1]] = n_bytes
        self.n_bytes += n_bytes
        self._refresh(chain)
        return victims

    def remove(self, digest: bytes) -> None:
        if digest in self._new:
            self.n_bytes -= self._new.pop(digest)
        elif digest in self._reused:
            n_bytes = self._reused.pop(digest)
            self.n_bytes -= n_bytes
            self._reused_bytes -= n_bytes

    def _victims(self, spared: set[bytes], n_bytes: int) -> list[bytes] | None:
        """The least recently used blocks of `n_bytes` or more, without the `spared` ones, which were used last."""
        victims: list[bytes] = []
        for segment in (self._new, self._reused):
            for digest, size in segment.items():
                if n_bytes <= 0 or digest in spared:
                    break
                victims.append(digest)
                n_bytes -= size
        return victims if n_bytes <= 0 else None

    def _refresh(self, chain: Sequence[bytes]) -> None:
        """Each block moves to the recent end of its own segment."""
        for digest in reversed(chain):
            segment = self._new if digest in self._new else self._reused
            if digest in segment:
                segment.move_to_end(digest)
