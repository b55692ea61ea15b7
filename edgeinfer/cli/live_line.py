"""Speed and drafter on the last row of the terminal while an answer is written."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from typing import TYPE_CHECKING

from wcwidth import wcwidth

from edgeinfer.cli.output import DIM, RESET, colored, write

if TYPE_CHECKING:
    from edgeinfer.decode.stats import AnswerStats

LIVE_S = 0.1  # between two drawings of the live line
MIN_ROWS = 4  # with fewer there is no room for it
UNWRAPPED = 1 << 30  # a width that no line reaches
NOT_SET = os.terminal_size((0, 0))


class LiveLine:
    """The text scrolls above it. Each drawing looks whether the window has another size, and sets the rows that scroll.
    Ctrl-Z gives the shell the whole terminal."""

    def __init__(self) -> None:
        self._size = NOT_SET  # that the rows were set for
        self._column = 0
        self._line = 0  # columns of the text since its last newline, wrapped or not
        self._started = self._drawn = time.perf_counter()
        self._rounds: dict[str, int] = {}
        self._arm = "none"
        self._on = colored(sys.stderr) and terminal_size().lines > MIN_ROWS
        if self._on:
            self._set_rows(terminal_size())
            if hasattr(signal, "SIGTSTP") and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
                signal.signal(signal.SIGTSTP, self._stop_program)

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
            if hasattr(signal, "SIGTSTP") and signal.getsignal(signal.SIGTSTP) == self._stop_program:
                signal.signal(signal.SIGTSTP, signal.SIG_DFL)

    def _stop_program(self, *_: object) -> None:
        """Stop as Ctrl-Z does, with all rows of the terminal free to scroll. The next drawing sets them again."""
        self._size = NOT_SET
        self._column = self._line = 0  # the shell will have begun a line
        os.write(sys.stderr.fileno(), b"\0337\033[r\0338\033[J")  # not through a buffer, which may be in use
        os.kill(os.getpid(), signal.SIGSTOP)

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
        elif (columns := wcwidth(character)) > 0:
            column = column + columns if column + columns <= width else columns
    return column
