"""The running chat on disk, so that a crash, a signal or a closed window loses nothing."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from edgeinfer.chat import history
from edgeinfer.chat.history import SavedChat
from edgeinfer.cli.output import whisper
from edgeinfer.errors import UsageError

WHILE_ANSWERING_S = 2.0
MAX_WRITING_SHARE = 0.05  # of the time of an answer; a long conversation is written less often


class Autosave:
    """The file of one running chat in `folder`, and those that other chats left there.

    A lock beside each file is held while its chat runs, so a file whose lock is free was left by a crash. Without a
    writable folder nothing is kept, and the chat runs anyway.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._file: Path | None = None
        self._lock: FileLock | None = None
        self._due = 0.0
        self._told = False

    def write(self, chat: SavedChat) -> bool:
        """Keep the chat as it is now. False where it has no messages, or where it cannot be kept."""
        if not chat.messages:
            self.discard()
            return False
        began = time.monotonic()
        try:
            file = self._own_file()
            if file is None:
                return False
            history.save(file, chat)
        except (OSError, NotImplementedError, UsageError) as error:  # filelock raises the second
            if not self._told:
                whisper(f"(this chat is not kept while it runs: {error})")
            self._told = True
            return False
        now = time.monotonic()
        self._due = now + max(WHILE_ANSWERING_S, (now - began) / MAX_WRITING_SHARE)
        return True

    def write_if_due(self, chat: Callable[[], SavedChat]) -> None:
        if time.monotonic() >= self._due:
            self.write(chat())

    def discard(self) -> None:
        """Delete the file: the chat ended normally, or has no messages any more."""
        if self._file:
            remove(self._file)

    def close(self) -> None:
        """Release the lock. What was written and not discarded will be found."""
        if self._lock:
            self._lock.release()
            remove(Path(self._lock.lock_file))

    def left_behind(self) -> Path | None:
        """The newest file of a chat that was cut off. None if there is none, or if the folder cannot be read and
        written."""
        if self._folder is None:
            return None
        try:
            files = [file for file in self._folder.glob("*.json") if file != self._file and not is_locked(file)]
            return max(files, key=lambda file: file.stat().st_mtime, default=None)
        except (OSError, NotImplementedError):
            return None

    def _own_file(self) -> Path | None:
        if self._file is None and self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = self._folder / f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.getpid()}.json"
            self._lock = FileLock(file.with_suffix(".lock"))
            self._lock.acquire(blocking=False)
            self._file = file
        return self._file


def is_locked(file: Path) -> bool:
    lock = FileLock(file.with_suffix(".lock"))
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return True
    lock.release()
    remove(Path(lock.lock_file))
    return False


def remove(file: Path) -> None:
    with suppress(OSError):
        file.unlink()
