"""Blocks in a folder, one file each, within a budget. A restart finds them again.

A file gets its name when all of it is on the disk, so a process that is killed while writing loses that block only.
The time of a file is that of its last use. Files are written by a thread of their own: an answer does not wait for a
disk. Several processes may use one folder; each holds what it knows of to the budget.
"""

from __future__ import annotations

import os
import queue
import stat
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeAlias

from edgeinfer.kept import PART, write_whole
from edgeinfer.serve.store import record
from edgeinfer.serve.store.blocks import Block
from edgeinfer.serve.store.eviction import LeafLru

SUFFIX: Final = ".kv"
STALE_S: Final = 60.0  # an unfinished file that is older was left by a killed process
MAX_WAITING: Final = 512  # blocks that wait for the disk; what comes when there are more is not written

Work: TypeAlias = Callable[[], None]


class _NoRoomError(Exception):
    """The block is larger than what its budget can free."""


class DiskBlocks:
    """`say` receives a sentence, once, when the folder cannot be written: the blocks are then in memory alone."""

    def __init__(self, folder: Path, identity: str, budget_bytes: int, say: Callable[[str], None]) -> None:
        self.n_unwritten = 0  # blocks that came when too many waited, or after the disk had failed
        self._folder = folder
        self._identity = identity
        self._say = say
        self._lock = threading.Lock()  # guards the two that follow
        self._lru = LeafLru(budget_bytes)
        self._writable = True
        self._work: queue.Queue[Work | None] = queue.Queue(MAX_WAITING)
        self._open()
        self._thread = threading.Thread(target=self._run, name="prefix-cache-writer", daemon=True)
        self._thread.start()

    @property
    def n_bytes(self) -> int:
        return self._lru.n_bytes

    def __len__(self) -> int:
        return len(self._lru)

    def __contains__(self, block: Block) -> bool:
        with self._lock:
            return block.digest in self._lru

    def read(self, block: Block) -> bytes | None:
        """None where it is not here. A file that is not what its name says is deleted."""
        if block not in self:
            return None
        path = self._path(block.digest)
        try:
            return record.decode(path.read_bytes(), self._identity, block)
        except OSError:
            pass
        except ValueError:
            with suppress(OSError):
                path.unlink()
        with self._lock:
            self._lru.remove(block.digest)
        return None

    def found(self, chain: Sequence[Block]) -> None:
        digests = [block.digest for block in chain]
        with self._lock:
            self._lru.found(digests)
        self._later(lambda: self._mark_used(digests))

    def add(self, chain: Sequence[Block], payload: bytes) -> None:
        """Write the last block of `chain`, soon."""
        blocks = tuple(chain)
        if not self._later(lambda: self._write(blocks, payload)):
            self.n_unwritten += 1

    def flush(self) -> None:
        """Wait until all that was added is on the disk."""
        self._work.join()

    def close(self) -> None:
        self._work.put(None)
        self._thread.join()

    def _later(self, work: Work) -> bool:
        if not self._writable:
            return False
        try:
            self._work.put_nowait(work)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                if self._writable:
                    work()
            except OSError as error:
                self._fail(error)
            finally:
                self._work.task_done()
        self._work.task_done()

    def _open(self) -> None:
        """The files of the last run, in the order of their last use."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = [record for entry in os.scandir(self._folder) if (record := _found(Path(entry.path)))]
        except OSError as error:
            self._fail(error)
            return
        for _, digest, n_bytes in sorted(found):
            gone = self._lru.add([digest], n_bytes)
            self._delete([digest] if gone is None else gone)

    def _write(self, chain: Sequence[Block], payload: bytes) -> None:
        block = chain[-1]
        if block in self:
            return
        data, digests = record.encode(self._identity, block, payload), [one.digest for one in chain]
        with suppress(_NoRoomError):
            write_whole(self._path(block.digest), data, check=lambda _: self._make_room(digests, len(data)))
            self._mark_used(digests)

    def _make_room(self, digests: Sequence[bytes], n_bytes: int) -> None:
        with self._lock:
            gone = self._lru.add(digests, n_bytes)
        if gone is None:
            raise _NoRoomError
        self._delete(gone)

    def _delete(self, digests: Sequence[bytes]) -> None:
        for digest in digests:
            self._path(digest).unlink(missing_ok=True)

    def _mark_used(self, digests: Sequence[bytes]) -> None:
        """Leaf first, as in memory: a file is older than its parent's."""
        now = time.time_ns()
        for later, digest in enumerate(reversed(digests)):
            with suppress(FileNotFoundError):
                os.utime(self._path(digest), ns=(now + later, now + later))

    def _fail(self, error: OSError) -> None:
        self._writable = False
        reason = error.strerror or type(error).__name__
        self._say(f"the prefix cache on disk is not written any more ({reason}: {self._folder}); it stays in memory")

    def _path(self, digest: bytes) -> Path:
        return self._folder / f"{digest.hex()}{SUFFIX}"


def _found(path: Path) -> tuple[int, bytes, int] | None:
    """The time of last use, the digest and the size of a record; None for another file. Deletes what is stale."""
    try:
        facts, digest = path.stat(follow_symlinks=False), _digest_of(path.name)
        if path.name.endswith(PART) and facts.st_mtime < time.time() - STALE_S:
            path.unlink()
        return (facts.st_mtime_ns, digest, facts.st_size) if digest and stat.S_ISREG(facts.st_mode) else None
    except FileNotFoundError:  # another process has deleted it
        return None


def _digest_of(name: str) -> bytes | None:
    try:
        digest = bytes.fromhex(name.removesuffix(SUFFIX))
    except ValueError:
        return None
    return digest if len(digest) == 32 and name.endswith(SUFFIX) else None
