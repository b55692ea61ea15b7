"""Files that a user names: text read from a file, a pipe or a terminal, and results written to a file or a pipe."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import BinaryIO, Final, TypeAlias

from edgeinfer.errors import UsageError
from edgeinfer.kept import is_stream, write_whole
from edgeinfer.text import decoded

__all__ = ["Waiting", "check_output", "mentioned_when_slow", "open_file", "read_text", "silently", "write_text"]

PATIENCE_S: Final = 1.0
_HINT: Final = "name a file in a folder that you can write to"

Waiting: TypeAlias = Callable[[str], None]
"""Called with a sentence, once, when something is waited for longer than a second."""


def silently(_: str) -> None:
    pass


def read_text(path: Path, *, title: str, most_bytes: int, hint: str = "", waiting: Waiting = silently) -> str:
    """All of a file, or of a pipe or terminal until it ends. `title` names it in messages.

    Raises UsageError when it cannot be read, has more than `most_bytes`, or is not text.
    """
    try:
        with mentioned_when_slow(waiting, f"(waiting for the end of {path})"), path.open("rb") as file:
            data = file.read(most_bytes + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise UsageError(f"cannot read {title}: {_reason(error)}", hint=hint) from error
    if len(data) > most_bytes:
        raise UsageError(f"{title} is larger than {most_bytes} bytes", hint=hint)
    return decoded(data, name=title)


def open_file(path: Path) -> BinaryIO:
    """Open for reading what must be a file. Raises OSError for anything else: a pipe in a folder from a stranger would
    be waited for without end."""
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(kind, os.strerror(kind) if stat.S_ISDIR(mode) else "it is a pipe or a device")
    return os.fdopen(handle, "rb")


@contextmanager
def mentioned_when_slow(waiting: Waiting, sentence: str) -> Iterator[None]:
    timer = Timer(PATIENCE_S, waiting, [sentence])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def write_text(path: Path, text: str, *, mode: int = 0o666) -> None:
    """Replace the file whole, or write to a pipe or device that is there, as `write_whole` does. Raises UsageError."""
    try:
        write_whole(path, text, mode=mode)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot write `{path}`: {_reason(error)}", hint=_HINT) from error


def check_output(path: Path | None) -> None:
    """Raise UsageError where `write_text` would fail, before the work whose result goes there."""
    if path is None or is_stream(path):
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UsageError(f"cannot write `{path}`: {folder} is not a folder", hint=_HINT)
    if path.is_dir():
        raise UsageError(f"cannot write `{path}`: it is a folder", hint="name a file in it")
    if not os.access(folder, os.W_OK):
        raise UsageError(f"cannot write `{path}`: {folder} is read-only for you", hint=_HINT)


def _reason(error: BaseException) -> str:
    """The error without the path, which the message already names."""
    return (error.strerror if isinstance(error, OSError) and error.strerror else str(error)).splitlines()[0]
