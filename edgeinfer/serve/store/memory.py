"""Blocks in memory, within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from edgeinfer.serve.store.blocks import Block
from edgeinfer.serve.store.eviction import LeafLru
from edgeinfer.types import Tokens, common_prefix


class Held(NamedTuple):
    block: Block
    payload: bytes


class MemoryBlocks:
    def __init__(self, budget_bytes: int) -> None:
        self._lru = LeafLru(budget_bytes)
        self._held: dict[bytes, Held] = {}
        self._children: dict[bytes, dict[bytes, Held]] = {}  # by the digest of the parent, then by their own

    @property
    def n_bytes(self) -> int:
        return self._lru.n_bytes

    def __contains__(self, block: Block) -> bool:
        return block.digest in self._held

    def __len__(self) -> int:
        return len(self._held)

    def read(self, block: Block) -> bytes | None:
        """None where it is not here. The tokens are compared too, not only their digest."""
        held = self._held.get(block.digest)
        return held.payload if held is not None and held.block == block else None

    def nearest(self, parent: bytes, tokens: Tokens) -> Held | None:
        """The block after the one of digest `parent` that begins most like `tokens`; None where none does."""
        children = self._children.get(parent, {}).values()
        best = max(children, key=lambda held: common_prefix(held.block.tokens, tokens), default=None)
        return best if best is not None and common_prefix(best.block.tokens, tokens) else None

    def found(self, chain: Sequence[Block]) -> None:
        self._lru.found([block.digest for block in chain])

    def add(self, chain: Sequence[Block], payload: bytes) -> list[bytes]:
        """Add the last block of `chain` if there is room for it; the digests that went for it."""
        block = chain[-1]
        gone = self._lru.add([one.digest for one in chain], len(payload))
        if gone is None:
            return []
        for digest in gone:
            self._remove(digest)
        held = Held(block, payload)
        self._held[block.digest] = held
        self._children.setdefault(block.parent, {})[block.digest] = held
        return gone

    def _remove(self, digest: bytes) -> None:
        parent = self._held.pop(digest).block.parent
        del self._children[parent][digest]
        if not self._children[parent]:
            del self._children[parent]
