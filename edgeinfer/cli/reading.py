"""Text that comes in: arguments and stdin, as UTF-8 or not at all."""

from __future__ import annotations

import os
import stat
import sys
from typing import BinaryIO

from edgeinfer.errors import UsageError

MAX_STDIN_BYTES = 64 * 1024 * 1024


def decoded(data: bytes, *, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
            hint="convert it, for example with `iconv -f latin1 -t utf-8`",
        ) from error


def read_all(stream: BinaryIO) -> str:
    data = stream.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise UsageError(f"stdin gives more than {MAX_STDIN_BYTES} bytes")
    return decoded(data, name="stdin").removeprefix("\ufeff")


def stdin_is_fed() -> bool:
    """Whether something was piped or redirected in: a terminal, /dev/null or a socket is not read unasked."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError, AttributeError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode)
