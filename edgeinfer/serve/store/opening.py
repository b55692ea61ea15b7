"""Opens the prefix cache of a model, where it can have one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edgeinfer.formats.paths import sha256_of
from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import BlockCache, Cache
from edgeinfer.runner.opening import local_path
from edgeinfer.serve.engine.slots import NoPrefixes, Prefixes
from edgeinfer.serve.store.disk import DiskBlocks
from edgeinfer.serve.store.memory import MemoryBlocks
from edgeinfer.serve.store.prefixes import PrefixStore
from edgeinfer.serve.store.self_test import self_test

__all__ = ["StoreSize", "open_prefixes", "prefixes_of", "weights_digest"]

_OF_FREE: Final = 0.5  # of what is free on the disk, at most


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Budgets of the prefix cache. With `disk_bytes` 0 nothing is kept between runs."""

    memory_bytes: int = 512 * 10**6
    disk_bytes: int = 4096 * 10**6  # and never more than half of what is free

    def within(self, free_bytes: int) -> StoreSize:
        """At most half of the memory that is free."""
        return replace(self, memory_bytes=max(0, min(self.memory_bytes, free_bytes // 2)))


def prefixes_of(plan: Plan, size: StoreSize, say: Callable[[str], None]) -> Callable[[Cache], Prefixes]:
    """Opens the prefix cache of the plan's model, with an empty cache of it. Its file must be on this machine.

    `say` receives sentences for the user, each once, from any thread.
    """

    def open_with(cache: Cache) -> Prefixes:
        path, fitting = local_path(plan.artifact), size.within(plan.budget_bytes - plan.estimate.total_bytes)
        if path is None or not (fitting.memory_bytes or fitting.disk_bytes):
            return NoPrefixes()
        if fitting != size:
            say(f"the prefix cache takes {fitting.memory_bytes / 1e6:.0f} MB, half of what the plan leaves free")
        weights = weights_digest(path, plan.artifact.sha256)
        return open_prefixes(cache, plan.model.shape.n_vocab, weights, fitting, say) or NoPrefixes()

    return open_with


def open_prefixes(
    cache: Cache, n_vocab: int, weights: str, size: StoreSize, say: Callable[[str], None]
) -> PrefixStore | None:
    """The prefix cache for the model of `cache`, which is empty; `weights` is a digest of the model's file.

    None where the engine cannot take K and V apart, or a self-test shows that they do not come back the same.
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
