"""Text input: arguments and stdin, in UTF-8 or UTF-16."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import nullcontext
from pathlib import Path

from edgeinfer.cli.output import whisper
from edgeinfer.errors import UsageError
from edgeinfer.named_files import mentioned_when_slow
from edgeinfer.text import decoded

MAX_STDIN_BYTES = 64 * 1024 * 1024
WAITING = "(waiting for the end of stdin; with `< /dev/null` there is none)"
SHELLS = frozenset({"ash", "bash", "busybox", "dash", "fish", "ksh", "ksh93", "mksh", "sh", "zsh"})


def read_stdin() -> str:
    """All of stdin. Raises UsageError when it cannot be read, is too large, or is not text."""
    typed = sys.stdin.isatty()
    if typed:
        whisper("(reading from the terminal; Ctrl-D on a line of its own ends it)")
    with nullcontext() if typed else mentioned_when_slow(whisper, WAITING):
        try:
            data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
        except OSError as error:
            raise UsageError(f"stdin cannot be read: {error.strerror}", hint="open it for reading") from error
    if len(data) > MAX_STDIN_BYTES:
        raise UsageError(f"stdin gives more than {MAX_STDIN_BYTES} bytes")
    return decoded(data, name="stdin")


def stdin_is_fed() -> bool:
    """Whether stdin is a pipe or a file. A terminal, /dev/null or a socket is read only on request."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)


def stdin_is_shared() -> bool:
    """Whether a shell reads the same stdin, as in `while read question; do edgeinfer run "$question"; done < file`.

    A file that was read in part shows it everywhere, a pipe only where /proc says what the parent reads.
    """
    number = sys.stdin.fileno()
    here = os.fstat(number)
    if stat.S_ISREG(here.st_mode) and os.lseek(number, 0, os.SEEK_CUR) > 0:
        return True
    parent = Path(f"/proc/{os.getppid()}")
    try:
        return (parent / "exe").readlink().name in SHELLS and os.path.samestat(here, (parent / "fd/0").stat())
    except OSError:  # another system, or a parent of another user
        return False
