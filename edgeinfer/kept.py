"""Small files that are kept between runs. Each is replaced whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

__all__ = ["PART", "is_stream", "read_kept", "write_kept", "write_whole"]

PART = ".part"  # ends the name of a file that is not whole yet
MAX_BYTES = 1 << 20  # a larger file was not written by edgeinfer


def read_kept(path: Path | None) -> dict[str, Any]:
    """The JSON object at `path`; empty when it is missing, unreadable, damaged or anything else."""
    try:
        if path is None or not path.is_file():
            return {}
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        value = json.loads(data) if len(data) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_kept(path: Path | None, value: Mapping[str, object]) -> None:
    """Keep `value` as JSON. Without a home folder, or on a read-only or full disk, nothing is kept; that is not an
    error."""
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value))


def write_whole(
    path: Path, content: str | bytes, *, mode: int = 0o600, check: Callable[[Path], object] = lambda _: None
) -> None:
    """Replace the file at `path` by `content`; a crash or an error leaves the old one. Text is UTF-8. A link stays one.

    A new file gets the permissions `mode`, less the umask; an old one keeps its own. A pipe or a device is written to:
    there is nothing to replace. `check` sees the new file before it takes the old one's place; what it raises prevents
    that. Raises OSError.
    """
    data = content.encode("utf-8") if isinstance(content, str) else content
    if is_stream(path):
        _write_to_stream(path, data)
        return
    path = path.resolve()
    part = path.with_name(f".edgeinfer-{os.urandom(8).hex()}{PART}")
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if path.is_file():
            part.chmod(stat.S_IMODE(path.stat().st_mode))
        check(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def is_stream(path: Path) -> bool:
    """Whether `path` is neither a file nor a folder, or is what a standard stream of this process has open."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return False
    if stat.S_ISREG(found.st_mode):
        return any(map(partial(os.path.samestat, found), _standard_streams()))
    return not stat.S_ISDIR(found.st_mode)


def _standard_streams() -> Iterator[os.stat_result]:
    for number in range(3):
        with suppress(OSError):
            yield os.fstat(number)


def _write_to_stream(path: Path, data: bytes) -> None:
    if stat.S_ISBLK(path.stat().st_mode):
        raise OSError(errno.EPERM, "it is a disk")
    try:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NONBLOCK", 0))
    except OSError as error:
        if error.errno == errno.ENXIO:
            raise OSError(errno.ENXIO, "nothing reads this pipe") from error
        raise
    os.set_blocking(handle, True)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
