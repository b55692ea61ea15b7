"""The standard streams, which may be closed, full or gone."""

from __future__ import annotations

import os
import sys
from typing import TextIO, cast


def open_missing() -> None:
    """Give the null device to each standard stream that is closed. Without that, the next file that is opened gets its
    number, and what an engine prints ends up in the file."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w" if number else "r", closefd=False, encoding="utf-8"))  # noqa: SIM115


def take_any_character() -> None:
    """A terminal that cannot show a character shows `?`."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def let_go() -> None:
    """Drop what a stream could not take. Python would try again at its exit, and complain."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), cast("TextIO", stream).fileno())
