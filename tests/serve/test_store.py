"""The prefix cache on the reference backend: lookup, comparison, storage, loss and messages."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.backends.reference import load_gguf
from edgeinfer.backends.reference.cache import ReferenceCache
from edgeinfer.backends.reference.model import ReferenceModel
from edgeinfer.errors import EngineError
from edgeinfer.prefill import prefill
from edgeinfer.serve.store import opening, record
from edgeinfer.serve.store.blocks import chain, root_digest
from edgeinfer.serve.store.disk import DiskBlocks
from edgeinfer.serve.store.memory import MemoryBlocks
from edgeinfer.serve.store.opening import StoreSize, open_prefixes, weights_digest
from edgeinfer.serve.store.prefixes import PrefixStore
from edgeinfer.serve.store.self_test import self_test
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=200)
IDENTITY = "an engine, a model"
ROOT = root_digest(IDENTITY)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ReferenceModel:
    return load_gguf(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", Tiny(tier="F32")), exit_layer=None)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def disk(tmp_path: Path, said: list[str]) -> Iterator[DiskBlocks]:
    disk = DiskBlocks(tmp_path / "prefixes", IDENTITY, 1 << 20, said.append)
    yield disk
    disk.close()


def tokens_of(n: int, seed: int = 1) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 259, n)]


def in_memory(said: list[str], n_bytes: int = 1 << 24, disk: DiskBlocks | None = None) -> PrefixStore:
    return PrefixStore(IDENTITY, POLICY, MemoryBlocks(n_bytes), disk, said.append)


def ran(model: ReferenceModel, tokens: Sequence[int]) -> ReferenceCache:
    cache = model.new_cache(POLICY)
    prefill(cache, tokens)
    return cache


def block_bytes(model: ReferenceModel) -> int:
    (block,) = ran(model, tokens_of(16)).snapshot([range(16)])
    assert block is not None
    return len(block)


def answer(cache: ReferenceCache, tokens: Sequence[int]) -> list[float]:
    row = prefill(cache, tokens[cache.length :])
    return [float(value) for value in row.numpy()]


@pytest.mark.parametrize(("n_same", "n_restored"), [(7, 0), (15, 15), (16, 16), (20, 20), (47, 47), (60, 48), (90, 64)])
def test_the_longest_stored_prefix_is_found(
    model: ReferenceModel, said: list[str], n_same: int, n_restored: int
) -> None:
    store, first = in_memory(said), tokens_of(60, 2)
    ran_all = ran(model, first)
    store.keep(ran_all, first)
    store.keep(ran(model, [*first, *tokens_of(4, 9)]), [*first, *tokens_of(4, 9)])
    both = [*first, *tokens_of(4, 9), *tokens_of(40, 10)]
    prompt = [*both[:n_same], *[(token + 1) % 256 for token in both[n_same : n_same + 1]], *tokens_of(50, 4)]
    cache = model.new_cache(POLICY)
    assert store.restore(cache, prompt, 0) == n_restored == cache.length
    assert answer(cache, prompt) == answer(model.new_cache(POLICY), prompt)
    assert store.figures.restored_tokens == n_restored and said == []


def test_the_last_token_is_always_run(model: ReferenceModel, said: list[str]) -> None:
    store, prompt = in_memory(said), tokens_of(32)
    store.keep(ran(model, prompt), prompt)
    assert store.restore(model.new_cache(POLICY), prompt, 0) == 31


def test_a_cache_that_already_holds_the_prefix_is_left_alone(model: ReferenceModel, said: list[str]) -> None:
    store, prompt = in_memory(said), tokens_of(50)
    cache = ran(model, prompt)
    store.keep(cache, prompt)
    assert store.restore(cache, prompt, 48) == 0 and cache.length == 50
    assert store.restore(cache, prompt, 41) == 0 and cache.length == 50  # running 7 tokens takes less time
    assert store.restore(cache, prompt, 40) == 48 == cache.length


def test_of_several_blocks_the_one_with_the_longest_match_is_cut(model: ReferenceModel, said: list[str]) -> None:
    store, system = in_memory(said), tokens_of(20, 5)
    for seed, n_more in ((6, 2), (7, 9), (8, 5)):  # the second shares most with the prompt
        first = [*system, *tokens_of(9, 99)[:n_more], *tokens_of(30, seed)]
        store.keep(ran(model, first), first)
    prompt = [*system, *tokens_of(9, 99), *tokens_of(20, 10)]
    cache = model.new_cache(POLICY)
    assert store.restore(cache, prompt, 0) == 29 == cache.length
    assert answer(cache, prompt) == answer(model.new_cache(POLICY), prompt)


def test_an_evicted_block_is_not_cut(model: ReferenceModel, said: list[str]) -> None:
    first, other = tokens_of(16, 2), tokens_of(16, 3)
    store = in_memory(said, block_bytes(model) + 1)
    store.keep(ran(model, first), first)
    store.keep(ran(model, other), other)
    assert store.figures.evicted_blocks == 1
    assert store.restore(model.new_cache(POLICY), [*first[:12], 7, 8], 0) == 0
    assert store.restore(model.new_cache(POLICY), [*other[:12], 7, 8], 0) == 12


def test_blocks_outside_the_window_are_not_stored(model: ReferenceModel, said: list[str]) -> None:
    store, prompt = in_memory(said), tokens_of(120)
    store.keep(ran(model, prompt), prompt)
    assert store.figures.memory_blocks == 0
    assert store.restore(model.new_cache(POLICY), prompt, 0) == 0


def test_a_chat_stores_only_new_blocks(model: ReferenceModel, said: list[str]) -> None:
    store, prompt = in_memory(said), tokens_of(66)
    cache = ran(model, prompt[:40])
    store.keep(cache, prompt[:40])
    assert store.figures.memory_blocks == 2
    prefill(cache, prompt[40:])
    store.keep(cache, prompt)
    assert store.figures.memory_blocks == 4


def test_tokens_are_compared_as_well_as_digests() -> None:
    (one,) = chain(ROOT, tokens_of(16, 1), 16)
    (other,) = chain(ROOT, tokens_of(16, 2), 16)
    forged = type(one)(other.start, other.tokens, other.parent, one.digest)
    memory = MemoryBlocks(1000)
    memory.add([one], b"payload")
    assert memory.read(one) == b"payload" and memory.read(forged) is None


def test_a_block_is_found_only_after_its_prefix() -> None:
    same = tokens_of(16, 3)
    after_one = list(chain(ROOT, [*tokens_of(16, 1), *same], 16))[1]
    after_other = list(chain(ROOT, [*tokens_of(16, 2), *same], 16))[1]
    other_model = next(iter(chain(root_digest("another"), same, 16)))
    assert len({after_one.digest, after_other.digest, other_model.digest, next(chain(ROOT, same, 16)).digest}) == 4


def test_blocks_on_disk_are_found_after_a_restart(model: ReferenceModel, tmp_path: Path, said: list[str]) -> None:
    prompt = tokens_of(60)
    first = in_memory(said, disk=DiskBlocks(tmp_path / "p", IDENTITY, 1 << 24, said.append))
    first.keep(ran(model, prompt), prompt)
    first.close()
    assert stat.S_IMODE((tmp_path / "p").stat().st_mode) == 0o700
    assert len(list((tmp_path / "p").glob("*.kv"))) == 3
    again = in_memory(said, disk=DiskBlocks(tmp_path / "p", IDENTITY, 1 << 24, said.append))
    cache = model.new_cache(POLICY)
    assert again.restore(cache, prompt, 0) == 48
    assert answer(cache, prompt) == answer(model.new_cache(POLICY), prompt)
    again.close()
    other = DiskBlocks(tmp_path / "p", "another engine", 1 << 24, said.append)
    cache = model.new_cache(POLICY)
    found = PrefixStore("another engine", POLICY, MemoryBlocks(1 << 24), other, said.append)
    assert found.restore(cache, prompt, 0) == 0 and said == []
    found.close()


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def test_every_flipped_bit_and_truncation_is_detected() -> None:
    (block,) = chain(ROOT, tokens_of(16), 16)
    data = record.encode(IDENTITY, block, b"payload of K and V")
    assert record.decode(data, IDENTITY, block) == b"payload of K and V"
    for at in range(len(data)):
        with pytest.raises(ValueError, match=r"another|checksum|shorter"):
            record.decode(flipped(data, at), IDENTITY, block)
        with pytest.raises(ValueError, match=r"another|checksum|shorter"):
            record.decode(data[:at], IDENTITY, block)
    with pytest.raises(ValueError, match="another block, model or engine"):
        record.decode(record.encode("an engine, A model", block, b"payload of K and V"), IDENTITY, block)


def test_a_damaged_file_is_deleted_and_its_tokens_run_again(
    model: ReferenceModel, tmp_path: Path, said: list[str]
) -> None:
    prompt = tokens_of(60)
    first = in_memory(said, disk=DiskBlocks(tmp_path, IDENTITY, 1 << 24, said.append))
    first.keep(ran(model, prompt), prompt)
    first.close()
    second = list(chain(ROOT, prompt, 16))[1]
    path = tmp_path / f"{second.digest.hex()}.kv"
    path.write_bytes(flipped(path.read_bytes(), 2000))
    again = in_memory(said, disk=DiskBlocks(tmp_path, IDENTITY, 1 << 24, said.append))
    cache = model.new_cache(POLICY)
    assert again.restore(cache, prompt, 0) == 16 and not path.exists()
    assert answer(cache, prompt) == answer(model.new_cache(POLICY), prompt)
    again.keep(cache, prompt)
    again.close()
    assert path.exists()


def test_the_budget_of_the_disk_holds_over_restarts(tmp_path: Path, said: list[str]) -> None:
    def sizes() -> int:
        return sum(path.stat().st_size for path in tmp_path.iterdir())

    for seed in range(3):
        disk = DiskBlocks(tmp_path, IDENTITY, 10_000, said.append)
        blocks = list(chain(ROOT, tokens_of(64, seed), 16))
        for n in range(1, 5):
            disk.add(blocks[:n], bytes(1500))
        disk.flush()
        assert 7_000 < sizes() <= 10_000 and sizes() == disk.n_bytes
        assert disk.read(blocks[0]) is not None
        disk.close()


def test_the_order_of_use_survives_restarts(tmp_path: Path, said: list[str]) -> None:
    """The leaf of the older chat is evicted first, although both were written together."""
    disk = DiskBlocks(tmp_path, IDENTITY, 10_000, said.append)
    chats = [list(chain(ROOT, tokens_of(32, seed), 16)) for seed in (1, 2)]
    for blocks in chats:
        for n in (1, 2):
            disk.add(blocks[:n], bytes(1500))
    disk.found(chats[0])
    disk.close()
    disk = DiskBlocks(tmp_path, IDENTITY, 10_000, said.append)
    for seed in (3, 4):
        disk.add(list(chain(ROOT, tokens_of(16, seed), 16)), bytes(1500))
    disk.flush()
    assert [block in disk for blocks in chats for block in blocks] == [True, True, True, False]
    disk.close()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_or_read_only_disk_is_reported_once(
    model: ReferenceModel, disk: DiskBlocks, said: list[str], monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store, prompt = in_memory(said, disk=disk), tokens_of(60)

    def fails(handle: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    for seed in (1, 2, 3):
        store.keep(ran(model, tokens_of(60, seed)), tokens_of(60, seed))
        disk.flush()
    assert [os.strerror(code) in line for line in said] == [True]
    assert store.restore(model.new_cache(POLICY), prompt, 0) == 48
    assert store.figures.unwritten_blocks > 0 and store.figures.disk_blocks == 0


def test_a_folder_that_cannot_be_made_is_reported_once(model: ReferenceModel, tmp_path: Path, said: list[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    store = in_memory(said, disk=DiskBlocks(tmp_path / "file" / "prefixes", IDENTITY, 1 << 20, said.append))
    prompt = tokens_of(60)
    store.keep(ran(model, prompt), prompt)
    assert store.restore(model.new_cache(POLICY), prompt, 0) == 48 and len(said) == 1
    store.close()


WRITER = """
import os, signal, sys
from pathlib import Path
from edgeinfer.serve.store.blocks import chain, root_digest
from edgeinfer.serve.store.disk import DiskBlocks

class HalfWritten:
    def __init__(self, handle):
        self.handle = handle
    def __enter__(self):
        return self
    def __exit__(self, *error):
        pass
    def write(self, data):
        os.write(self.handle, data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

disk = DiskBlocks(Path(sys.argv[1]), "killed", 1 << 30, print)
for seed in range(4):
    if seed == 3:
        os.fdopen = lambda handle, mode: HalfWritten(handle)
    disk.add(list(chain(root_digest("killed"), [seed, *range(15)], 16)), bytes([seed]) * 300_000)
    disk.flush()
"""


def test_a_process_killed_while_writing_loses_only_that_block(tmp_path: Path, said: list[str]) -> None:
    writer = subprocess.run([sys.executable, "-c", WRITER, str(tmp_path)], check=False)
    assert writer.returncode == -signal.SIGKILL
    disk = DiskBlocks(tmp_path, "killed", 1 << 30, said.append)
    assert len(disk) == len(list(tmp_path.glob("*.kv"))) == 3 and len(list(tmp_path.glob("*.part"))) == 1
    for seed in range(3):
        blocks = list(chain(root_digest("killed"), [seed, *range(15)], 16))
        assert disk.read(blocks[0]) == bytes([seed]) * 300_000
    disk.close()


def test_unfinished_files_of_a_killed_process_are_removed(tmp_path: Path, said: list[str]) -> None:
    old, new = tmp_path / "old.part", tmp_path / "new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 3600,) * 2)
    DiskBlocks(tmp_path, IDENTITY, 1 << 20, said.append).close()
    assert not old.exists() and new.exists()  # another process may be writing that one


def test_a_file_that_another_process_deletes_meanwhile_is_no_failure(
    tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = DiskBlocks(tmp_path, IDENTITY, 1 << 20, said.append)
    blocks = [next(chain(ROOT, tokens_of(16, seed), 16)) for seed in (1, 2)]
    for block in blocks:
        disk.add([block], b"payload")
    disk.close()
    gone, true = tmp_path / f"{blocks[0].digest.hex()}.kv", Path.stat

    def deleted_before(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path == gone:
            path.unlink(missing_ok=True)
        return true(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", deleted_before)
    disk = DiskBlocks(tmp_path, IDENTITY, 1 << 20, said.append)
    assert disk.read(blocks[0]) is None and disk.read(blocks[1]) == b"payload"
    disk.close()
    assert said == []


def test_an_engine_that_fails_to_restore_switches_the_store_off(
    model: ReferenceModel, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, prompt = in_memory(said), tokens_of(50)
    store.keep(ran(model, prompt), prompt)

    def fails(self: ReferenceCache, blocks: Sequence[bytes]) -> None:
        raise EngineError("no")

    monkeypatch.setattr(ReferenceCache, "restore", fails)
    cache = model.new_cache(POLICY)
    for _ in range(2):
        assert store.restore(cache, prompt, 0) == 0 and cache.length == 0
    assert said == ["the prefix cache is off: no"]


def test_a_cache_that_is_too_small_is_reported_once(model: ReferenceModel, said: list[str]) -> None:
    store = in_memory(said, 4 * block_bytes(model))
    prompts = [tokens_of(60, seed) for seed in range(3)]
    for _ in range(60):
        for prompt in prompts:
            cache = model.new_cache(POLICY)
            store.restore(cache, prompt, 0)
            prefill(cache, prompt[cache.length :])
            store.keep(cache, prompt)
    assert store.figures.thrashed_tokens > 4096 > store.figures.restored_tokens
    assert len(said) == 1 and "too small" in said[0]


def test_the_self_test_passes_and_leaves_the_cache_empty(model: ReferenceModel) -> None:
    cache = model.new_cache(POLICY)
    assert self_test(cache, 259) == "" and cache.length == 0


def test_the_self_test_finds_one_flipped_bit(model: ReferenceModel, monkeypatch: pytest.MonkeyPatch) -> None:
    true = ReferenceCache.restore
    monkeypatch.setattr(
        ReferenceCache, "restore", lambda self, blocks: true(self, [flipped(blocks[0], 102), *blocks[1:]])
    )
    assert "differ by" in self_test(model.new_cache(POLICY), 259)


def test_the_store_opens_where_it_can_and_says_why_not(
    model: ReferenceModel, said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "cache_folder", lambda: tmp_path)
    prompt = tokens_of(50)
    for restored in (0, 48):
        store = open_prefixes(model.new_cache(POLICY), 259, "sha256:1", StoreSize(), said.append)
        assert store is not None
        assert store.restore(model.new_cache(POLICY), prompt, 0) == restored
        store.keep(ran(model, prompt), prompt)
        store.close()
    other = open_prefixes(model.new_cache(POLICY), 259, "sha256:2", StoreSize(), said.append)
    assert other is not None and other.restore(model.new_cache(POLICY), prompt, 0) == 0 and said == []
    other.close()
    monkeypatch.setattr(opening, "self_test", lambda cache, n_vocab: "it is broken")
    assert open_prefixes(model.new_cache(POLICY), 259, "", StoreSize(), said.append) is None
    assert "it is broken" in said[0]


def test_a_digest_of_the_weights_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "cache_folder", lambda: tmp_path / "cache")
    path, digests = tmp_path / "model.gguf", list[str]()
    monkeypatch.setattr(opening, "sha256_of", lambda path: digests.append(path.read_text()) or path.read_text())
    path.write_text("one")
    assert [weights_digest(path), weights_digest(path), weights_digest(path, "known")] == ["one", "one", "known"]
    path.write_text("three")
    assert weights_digest(path) == "three" and digests == ["one", "three"]


def test_the_memory_is_within_what_the_plan_leaves_free() -> None:
    size = StoreSize(memory_bytes=500)
    assert [size.within(free).memory_bytes for free in (2000, 600, 0, -50)] == [500, 300, 0, 0]
