"""Speed and drafter on the row below an answer while it is written."""

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

LIVE_S = 0.1  # between two sets of figures
UNWRAPPED = 1 << 30  # a width that no line reaches
CLEAR_BELOW = "\033[J"


class LiveLine:
    """Is hidden before text is written and drawn below it afterwards. The terminal is set to nothing, so that a process
    that is killed leaves a line of text and no more. Ctrl-Z hides it."""

    def __init__(self) -> None:
        self._size = terminal_size()  # when the column was counted
        self._column = 0
        self._line = 0  # columns of the text since its last newline, wrapped or not
        self._counted = time.perf_counter()
        self._rounds: dict[str, int] = {}
        self._arm = "none"
        self._figures = ""
        self._shown = False
        self._on = colored(sys.stderr)
        if self._on and hasattr(signal, "SIGTSTP") and signal.getsignal(signal.SIGTSTP) == signal.SIG_DFL:
            signal.signal(signal.SIGTSTP, self._stop_program)

    def hide(self) -> None:
        """Before anything is written."""
        if not self._shown:
            return
        self._shown = False
        self._follow_window()
        if not self._waits_to_wrap:
            self._write(CLEAR_BELOW)

    def draw(self, stats: AnswerStats, text: str) -> None:
        """Draw it below `text`, which was written, but not while the cursor waits past the last column to wrap: many
        terminals forget that when the cursor comes back, and the next character would replace the last one."""
        if not self._on:
            return
        self._follow_window()
        self._column = column_after(text, self._column, self._size.columns)
        self._line = column_after(text, self._line, UNWRAPPED)
        now = time.perf_counter()
        if now - self._counted >= LIVE_S:
            self._counted = now
            self._count(stats)
        if self._figures and not self._waits_to_wrap:
            line = self._figures[: self._size.columns - 1]
            self._write(f"\033D\033[A{CLEAR_BELOW}\0337\033[B\r{DIM}{line}{RESET}\0338")
            self._shown = True

    def close(self) -> None:
        self.hide()
        if self._on and hasattr(signal, "SIGTSTP") and signal.getsignal(signal.SIGTSTP) == self._stop_program:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        self._on = False

    @property
    def _waits_to_wrap(self) -> bool:
        return self._column == self._size.columns

    def _count(self, stats: AnswerStats) -> None:
        new = {name: arm.rounds - self._rounds.get(name, 0) for name, arm in stats.arms.items()}
        if any(new.values()):
            self._arm = max(reversed(new), key=lambda name: new[name])
        self._rounds = {name: arm.rounds for name, arm in stats.arms.items()}
        self._figures = f"{stats.emitted} tokens, {stats.tokens_per_s:.1f} tokens/s, arm: {self._arm}"

    def _follow_window(self) -> None:
        """A window of another width wrapped the text again."""
        size = terminal_size()
        if size != self._size:
            self._column = (self._line - 1) % size.columns + 1 if self._line else 0
            self._size = size

    def _stop_program(self, *_: object) -> None:
        """Stop as Ctrl-Z does, without the line."""
        if self._shown:
            os.write(sys.stderr.fileno(), CLEAR_BELOW.encode())  # not through a buffer, which may be in use
            self._shown = False
        self._column = self._line = 0  # the shell will have begun a line
        os.kill(os.getpid(), signal.SIGSTOP)

    def _write(self, text: str) -> None:
        write(sys.stderr, text)


def terminal_size() -> os.terminal_size:
    """Of the terminal on stderr: stdout may be a file."""
    try:
        return os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):
        return shutil.get_terminal_size()


def column_after(text: str, column: int, width: int) -> int:
    """Columns in use in the last row after `text`, from 0 to `width`."""
    for character in text:
        if character == "\n":
            column = 0
        elif character == "\t":
            column = min(width - 1, (column // 8 + 1) * 8)
        elif (columns := wcwidth(character)) > 0:
            column = column + columns if column + columns <= width else columns
    return column
