"""The standard streams, which may be closed, full or gone."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TextIO, cast


def prepare() -> None:
    """Open the null device for each standard stream that is closed, and make all of them blocking: another program may
    have left a shared one in non-blocking mode. A character that a terminal cannot show becomes `?`.

    Without the null device, the next file that is opened gets the stream's number, and what an engine prints ends up
    in the file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
        with suppress(OSError, AttributeError):  # Windows has it for pipes, from Python 3.12
            os.set_blocking(number, True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False, encoding="utf-8"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def let_go() -> None:
    """Drop what a stream could not write. Python would try again at exit and print an error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), cast("TextIO", stream).fileno())
