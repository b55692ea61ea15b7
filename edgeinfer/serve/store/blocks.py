"""A prompt as a chain of blocks. A block's digest covers its tokens and, through its parent's, all tokens before it."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from edgeinfer.types import Tokens

__all__ = ["Block", "chain", "root_digest"]


@dataclass(frozen=True, slots=True)
class Block:
    """`tokens` at positions `start` and on, after the blocks of which `parent` is the last digest."""

    start: int
    tokens: array[int]
    parent: bytes
    digest: bytes

    @property
    def positions(self) -> range:
        return range(self.start, self.start + len(self.tokens))


def root_digest(identity: str) -> bytes:
    """The parent of every first block. `identity` says what K and V depend on in addition to the tokens."""
    return hashlib.sha256(identity.encode()).digest()


def chain(root: bytes, tokens: Tokens, size: int) -> Iterator[Block]:
    """The whole blocks of `size` tokens at the front of `tokens`, in order."""
    parent = root
    for start in range(0, len(tokens) - size + 1, size):
        ids = array("i", tokens[start : start + size])
        digest = hashlib.sha256(parent + ids.tobytes()).digest()  # in the machine's byte order
        yield Block(start, ids, parent, digest)
        parent = digest
