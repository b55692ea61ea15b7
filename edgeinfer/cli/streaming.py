"""Prints an answer while it is written: text on stdout, reasoning and the live line on stderr. Handles Ctrl-C."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from edgeinfer.cli.output import DIM, RESET, colored, whisper, write
from edgeinfer.cli.stats_lines import stats_lines
from edgeinfer.text import shown

if TYPE_CHECKING:
    from edgeinfer.cli.settings import Settings
    from edgeinfer.decode.stats import AnswerStats
    from edgeinfer.runner.answer import Answer, AnswerStream
    from edgeinfer.window import WindowPolicy

LIVE_S = 0.1  # between two drawings of the live line
MIN_ROWS = 4  # with fewer there is no room for it
UNWRAPPED = 1 << 30  # a width that no line reaches


class Interrupt:
    """The first Ctrl-C stops the answer between two rounds; the second one is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self._received = False
        self._stream: AnswerStream | None = None

    def __call__(self, *_: object) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = True
        if self._stream:
            self._stream.stop()

    def stops(self, stream: AnswerStream) -> None:
        self._stream = stream
        if self._received:
            stream.stop()


@contextmanager
def interruptible() -> Iterator[Interrupt]:
    interrupt = Interrupt()
    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


class Screen:
    """Writes the answer on stdout and the reasoning on stderr, on lines of their own."""

    def __init__(self, *, show_thinking: bool, quiet: bool) -> None:
        self._show_thinking = show_thinking
        self._quiet = quiet  # the caller prints the answer
        self._in_thinking = False
        self._last = "\n"

    def answer(self, text: str) -> None:
        self._leave_thinking()
        if self._quiet:
            return
        write(sys.stdout, shown(text) if sys.stdout.isatty() else text)
        self._last = text[-1]

    def thinking(self, text: str) -> None:
        if not self._show_thinking:
            return
        dim, reset = (DIM, RESET) if colored(sys.stderr) else ("", "")
        write(sys.stderr, f"{dim}{shown(text)}{reset}")
        self._in_thinking = True

    def finish(self) -> None:
        self._leave_thinking()
        if self._last != "\n":
            write(sys.stdout, "\n")

    def _leave_thinking(self) -> None:
        if self._in_thinking:
            write(sys.stderr, "\n\n")
            self._in_thinking = False


class LiveLine:
    """Speed and drafter on the terminal's last row; the text scrolls above it.

    The window may change its size: each drawing looks, and sets the rows that scroll again.
    """

    def __init__(self) -> None:
        self._size = os.terminal_size((0, 0))  # that the rows were set for
        self._column = 0
        self._line = 0  # columns of the text since its last newline, wrapped or not
        self._started = self._drawn = time.perf_counter()
        self._rounds: dict[str, int] = {}
        self._arm = "none"
        self._on = colored(sys.stderr) and terminal_size().lines > MIN_ROWS
        if self._on:
            self._set_rows(terminal_size())

    def draw(self, stats: AnswerStats, text: str) -> None:
        """Draw it again after `text` was written, but not while the cursor waits past the last column to wrap: many
        terminals forget that when the cursor comes back, and the next character would replace the last one."""
        if not self._on:
            return
        now, size = time.perf_counter(), terminal_size()
        self._column = column_after(text, self._column, self._size.columns)
        self._line = column_after(text, self._line, UNWRAPPED)
        if now - self._drawn < LIVE_S or size.lines <= MIN_ROWS:
            return
        if size != self._size:
            self._column = (self._line - 1) % size.columns + 1 if self._line else 0  # the terminal wrapped it again
        if self._column == size.columns:
            return
        if size != self._size:
            self._set_rows(size)
        self._drawn = now
        new = {name: arm.rounds - self._rounds.get(name, 0) for name, arm in stats.arms.items()}
        if any(new.values()):
            self._arm = max(reversed(new), key=lambda name: new[name])
        self._rounds = {name: arm.rounds for name, arm in stats.arms.items()}
        line = f"{stats.emitted} tokens, {stats.tokens_per_s:.1f} tokens/s, arm: {self._arm}"[: size.columns - 1]
        self._write(f"\0337\033[{size.lines};1H\033[2K{DIM}{line}{RESET}\0338")

    def close(self) -> None:
        if self._on:
            size = terminal_size()
            below = "" if self._column == size.columns else "\033[J"  # where the row was before the window changed
            self._write(f"\0337\033[r\033[{size.lines};1H\033[2K\0338{below}")
            self._on = False

    def _set_rows(self, size: os.terminal_size) -> None:
        """Let all rows but the last scroll. What is below the text is cleared, and the text leaves the last row."""
        self._size = size
        self._write(f"\0337\033[r\0338\033[J\033D\033[A\0337\033[1;{size.lines - 1}r\0338")

    def _write(self, text: str) -> None:
        write(sys.stderr, text)


def terminal_size() -> os.terminal_size:
    """Of the terminal on stderr: stdout may be a file."""
    try:
        return os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        return shutil.get_terminal_size()


def column_after(text: str, column: int, width: int) -> int:
    """Columns of the row that are written once `text` was, from 0 to `width`."""
    for character in text:
        if character == "\n":
            column = 0
        elif character == "\t":
            column = min(width - 1, (column // 8 + 1) * 8)
        elif not unicodedata.combining(character):
            columns = 2 if unicodedata.east_asian_width(character) in "WF" else 1
            column = column + columns if column + columns <= width else columns
    return column


def print_answer(
    begin: Callable[[], AnswerStream],
    settings: Settings,
    *,
    quiet: bool = False,
    progress: Callable[[AnswerStream], None] = lambda _: None,
) -> Answer:
    """Print an answer while it comes, and call `progress` after each piece.

    Raises what `begin` raises, KeyboardInterrupt for two Ctrl-C.
    """
    screen = Screen(show_thinking=settings.thinking, quiet=quiet)
    with interruptible() as interrupt:
        live = LiveLine() if settings.stats else None
        try:
            stream = begin()
            interrupt.stops(stream)
            with closing(stream):
                for segment in stream.segments():
                    progress(stream)
                    if segment.thinking:
                        screen.thinking(segment.text)
                        continue
                    screen.answer(segment.text)
                    if live:
                        live.draw(stream.stats, segment.text)
        finally:
            if live:
                live.close()
            screen.finish()
    return stream.answer


def window_news(stats: AnswerStats, window: WindowPolicy) -> dict[str, str]:
    """What left the window during an answer, by the name of its count."""
    news = {}
    if stats.evicted:
        news["evicted"] = (
            f"(the window of {window.slots} tokens is full: the oldest messages leave it from here on, "
            f"the first {window.sink} tokens stay; --context makes it larger)"
        )
    if stats.reanchored:
        news["reanchored"] = (
            f"(the model's {window.limit} positions are used up: the chat continues with the system prompt "
            f"and the newest {window.window // 2} tokens; older ones are forgotten)"
        )
    return news


def say_what_happened(stats: AnswerStats, settings: Settings) -> None:
    """Say that an answer was cut short and, with `--stats`, its counts."""
    if stats.finish == "length":
        whisper(f"(stopped at --max-tokens {settings.max_tokens})")
    if settings.stats:
        for line in stats_lines(stats):
            whisper(line)
