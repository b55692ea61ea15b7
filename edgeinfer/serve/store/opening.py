"""Opens the prefix cache of a model, where it can have one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeinfer.formats.paths import sha256_of
from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder
from edgeinfer.protocols import BlockCache, Cache
from edgeinfer.serve.store.disk import DiskBlocks
from edgeinfer.serve.store.memory import MemoryBlocks
from edgeinfer.serve.store.prefixes import PrefixStore
from edgeinfer.serve.store.self_test import self_test

__all__ = ["StoreSize", "open_prefixes", "weights_digest"]

_OF_FREE: Final = 0.5  # of what is free on the disk, at most


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Budgets of the prefix cache. With `disk_bytes` 0 nothing is kept between runs."""

    memory_bytes: int = 512 << 20
    disk_bytes: int = 4 << 30  # and never more than half of what is free


def open_prefixes(
    cache: Cache, n_vocab: int, weights: str, size: StoreSize, say: Callable[[str], None]
) -> PrefixStore | None:
    """The prefix cache for the model of `cache`, which is empty; `weights` is a digest of the model's file.

    None where the engine cannot take K and V apart, or a self-test shows that they do not come back the same. `say`
    receives sentences for the user, each once, from any thread.
    """
    if not isinstance(cache, BlockCache) or not cache.block_format:
        say("prompts are not kept between conversations: this model's engine cannot copy parts of its K and V")
        return None
    if wrong := self_test(cache, n_vocab):
        say(f"prompts are not kept between conversations: the self-test failed, {wrong}")
        return None
    identity = f"{cache.block_format}; weights {weights}"
    disk = _open_disk(identity, size.disk_bytes, say) if size.disk_bytes else None
    return PrefixStore(identity, cache.policy, MemoryBlocks(size.memory_bytes), disk, say)


def weights_digest(path: Path, known: str = "") -> str:
    """`known`, else the sha256 of the file at `path`. It is remembered until the file changes."""
    if known:
        return known
    name, facts = str(path.resolve()), path.stat()
    about = [facts.st_size, facts.st_mtime_ns]
    base = cache_folder()
    remembered = base / "weights.json" if base else None
    files = read_kept(remembered)
    kept = files.get(name)
    if not isinstance(kept, list) or kept[:-1] != about:
        kept = [*about, sha256_of(path)]
        write_kept(remembered, {**files, name: kept})
    return str(kept[-1])


def _open_disk(identity: str, n_bytes: int, say: Callable[[str], None]) -> DiskBlocks | None:
    base = cache_folder()
    if base is None:
        say("prompts are kept in memory only: there is no home folder for them")
        return None
    return DiskBlocks(base / "prefixes", identity, min(n_bytes, int(_OF_FREE * _free_bytes(base))), say)


def _free_bytes(folder: Path) -> int:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
