"""Output of the command line: data on stdout, everything else on stderr, readable without color."""

from __future__ import annotations

import difflib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TextIO

from edgeinfer.errors import UsageError
from edgeinfer.text import one_line, shown

DIM, BOLD, RED, RESET = "\033[2m", "\033[1m", "\033[31m", "\033[0m"


def colored(stream: TextIO) -> bool:
    """Whether escapes may be written: a terminal that can, and no NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, code: str, stream: TextIO) -> str:
    return f"{code}{text}{RESET}" if colored(stream) else text


def write(stream: TextIO, text: str) -> None:
    """Write and flush. On stdout, raises BrokenPipeError when its reader has left and UsageError for any other failure.
    A failure on stderr is ignored: it stops no answer."""
    try:
        stream.write(text)
        stream.flush()
    except OSError as error:
        if stream is not sys.stdout:
            return
        if isinstance(error, BrokenPipeError):
            raise
        raise UsageError(f"stdout cannot be written: {error.strerror}", hint="write to another file") from error


def say(text: str = "") -> None:
    write(sys.stderr, f"{shown(text)}\n")


def whisper(text: str) -> None:
    """A side note, dimmed."""
    write(sys.stderr, style(shown(text), DIM, sys.stderr) + "\n")


def show(text: str) -> None:
    write(sys.stdout, f"{shown(text) if sys.stdout.isatty() else text}\n")


def show_json(value: object) -> None:
    show(json.dumps(value, indent=2, ensure_ascii=False))


def complain(message: str, hint: str = "") -> None:
    """Print an error on one line and its hint on the next."""
    write(sys.stderr, f"{style('error:', RED, sys.stderr)} {one_line(message)}\n")
    if hint:
        write(sys.stderr, f"{style('hint:', BOLD, sys.stderr)} {one_line(hint)}\n")


def near(word: str, words: Iterable[str]) -> str:
    """A hint with the names that resemble `word`; "" when none does."""
    found = difflib.get_close_matches(word, list(words), n=3, cutoff=0.6)
    return "did you mean " + " or ".join(f"`{name}`" for name in found) + "?" if found else ""


def size(n_bytes: int) -> str:
    """Decimal units, as the hubs print them: 26.6 MB, 2.50 GB."""
    if n_bytes >= 1_000_000_000:
        return f"{n_bytes / 1e9:.2f} GB"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 100_000 else f"{n_bytes:,} bytes"


def table(rows: Sequence[Sequence[str]], *, head: Sequence[str]) -> str:
    """Columns as wide as their contents, two spaces apart."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
