"""The prefix cache: the longest kept beginning of a prompt is put into a cache, whoever ran it before."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from edgeinfer.errors import EngineError
from edgeinfer.protocols import BlockCache, Cache
from edgeinfer.serve.engine.slots import PrefixFigures
from edgeinfer.serve.store.blocks import Block, chain, root_digest
from edgeinfer.serve.store.disk import DiskBlocks
from edgeinfer.serve.store.memory import Held, MemoryBlocks
from edgeinfer.types import Tokens, common_prefix
from edgeinfer.window import WindowPolicy

BLOCK_TOKENS: Final = 32  # finer than the window's blocks, which are an eighth of it: of a prompt less is run again
MIN_GAIN_TOKENS: Final = 8  # fewer tokens are run in the time of a restore
MAX_REMEMBERED: Final = 4096  # digests of blocks that went for others
THRASH_TOKENS: Final = 4096  # tokens run again that had been kept before it is worth a word


class PrefixStore:
    """Keeps the first `policy.window` positions of conversations, in small blocks.

    Up to there a key does not depend on what leaves the window, and a cache that is filled from blocks has its keys in
    the order of one that ran them. `disk` is None where nothing is kept between runs. One thread at a time.
    """

    def __init__(
        self,
        identity: str,
        policy: WindowPolicy,
        memory: MemoryBlocks,
        disk: DiskBlocks | None,
        say: Callable[[str], None],
    ) -> None:
        self._root = root_digest(identity)
        self._window = policy.window
        self._block = min(BLOCK_TOKENS, policy.block)
        self._memory = memory
        self._disk = disk
        self._say = say
        self._gone: OrderedDict[bytes, None] = OrderedDict()
        self._n_restored = self._n_evicted = self._n_thrashed = 0
        self._warned = self._broken = False

    @property
    def keeps(self) -> bool:
        return not self._broken

    @property
    def figures(self) -> PrefixFigures:
        disk = self._disk
        return PrefixFigures(
            memory_bytes=self._memory.n_bytes,
            memory_blocks=len(self._memory),
            disk_bytes=disk.n_bytes if disk is not None else 0,
            disk_blocks=len(disk) if disk is not None else 0,
            restored_tokens=self._n_restored,
            evicted_blocks=self._n_evicted,
            thrashed_tokens=self._n_thrashed,
            unwritten_blocks=disk.n_unwritten if disk is not None else 0,
        )

    def restore(self, cache: Cache, tokens: Tokens, n_held: int) -> int:
        """Fill `cache` with the longest kept beginning of `tokens`; how many tokens that is. The last one is left out:
        its row is wanted.

        0, and the cache unchanged, where hardly more is kept than the `n_held` tokens that it holds already. When the
        engine fails, 0, and the cache is empty.
        """
        if not isinstance(cache, BlockCache) or self._broken:
            return 0
        whole = self._whole_blocks(tokens[:-1])
        n = sum(len(held.block.tokens) for held in whole)
        part, n_of_part = self._part_of_a_block(whole, tokens[n:-1])
        found = [*whole, *part]
        n += n_of_part
        if n - n_held < MIN_GAIN_TOKENS:
            return 0
        cache.rewind(0)
        try:
            cache.restore([held.payload for held in found])
            cache.rewind(n)
            if cache.length != n:
                raise EngineError(f"{cache.length} positions were restored instead of {n}")
        except EngineError as error:
            self._fail(error)
            cache.rewind(0)
            return 0
        self._found([held.block for held in found])
        self._n_restored += n
        return n

    def keep(self, cache: Cache, tokens: Tokens) -> None:
        """Copy the whole blocks of `cache` that are not kept. It holds `tokens` from position 0 on, as far as they have
        not left its window. Call it between rounds.
        """
        if not isinstance(cache, BlockCache) or self._broken:
            return
        blocks = self._chain(tokens[: cache.length])
        missing = [block for block in blocks if not self._is_kept(block)]
        try:
            payloads = cache.snapshot([block.positions for block in missing])
        except EngineError as error:
            self._fail(error)
            return
        for block, payload in zip(missing, payloads, strict=True):
            if payload is None:
                return  # it has left the window, and no block after it can be found without it
            before = blocks[: block.positions.stop // self._block]
            self._remember(before, payload)
            if self._disk is not None:
                self._disk.add(before, payload)

    def close(self) -> None:
        """Wait for the disk."""
        if self._disk is not None:
            self._disk.close()

    def _whole_blocks(self, tokens: Tokens) -> list[Held]:
        """The kept blocks at the front of `tokens`."""
        blocks = self._chain(tokens)
        found: list[Held] = []
        for index, block in enumerate(blocks):
            payload = self._read(blocks[: index + 1])
            if payload is None:
                self._count_thrash(blocks[index:])
                break
            found.append(Held(block, payload))
        return found

    def _part_of_a_block(self, before: Sequence[Held], tokens: Tokens) -> tuple[list[Held], int]:
        """The block after those `before` that begins most like `tokens`, if one does, and how many tokens it shares."""
        if (len(before) + 1) * self._block >= self._window:  # a cache that has filled its window cannot go back
            return [], 0
        parent = before[-1].block.digest if before else self._root
        nearest = self._memory.nearest(parent, tokens)
        return ([nearest], common_prefix(nearest.block.tokens, tokens)) if nearest else ([], 0)

    def _chain(self, tokens: Tokens) -> Sequence[Block]:
        return list(chain(self._root, tokens[: self._window], self._block))

    def _is_kept(self, block: Block) -> bool:
        return block in self._memory or (self._disk is not None and block in self._disk)

    def _fail(self, error: EngineError) -> None:
        self._broken = True
        self._say(f"the prefix cache is off: {error}")

    def _read(self, blocks: Sequence[Block]) -> bytes | None:
        """The payload of the last of `blocks`."""
        payload = self._memory.read(blocks[-1])
        if payload is None and self._disk is not None:
            payload = self._disk.read(blocks[-1])
            if payload is not None:
                self._remember(blocks, payload)
        return payload

    def _remember(self, blocks: Sequence[Block], payload: bytes) -> None:
        for digest in self._memory.add(blocks, payload):
            self._n_evicted += 1
            self._gone[digest] = None
        while len(self._gone) > MAX_REMEMBERED:
            self._gone.popitem(last=False)

    def _found(self, blocks: Sequence[Block]) -> None:
        self._memory.found(blocks)
        if self._disk is not None:
            self._disk.found(blocks)

    def _count_thrash(self, missed: Sequence[Block]) -> None:
        again = [block for block in missed if block.digest in self._gone]
        for block in again:
            del self._gone[block.digest]
            self._n_thrashed += len(block.tokens)
        if self._n_thrashed > max(THRASH_TOKENS, self._n_restored) and not self._warned:
            self._warned = True
            self._say("the prefix cache is too small: it runs more tokens again than it reuses; give it more memory")
