"""Download progress on stderr: one line that is redrawn on a terminal, a line for each tenth in a log."""

from __future__ import annotations

import sys
import time

from edgeinfer.cli.output import colored, say, size, write

DRAW_S = 0.2


class Progress:
    """Called with the bytes downloaded and the total."""

    def __init__(self) -> None:
        self._live = colored(sys.stderr)
        self._drawn = 0.0
        self._tenth = -1
        self._started = time.perf_counter()
        self._first: int | None = None

    def __call__(self, n_bytes: int, total: int) -> None:
        now = time.perf_counter()
        if self._first is None:
            self._first = n_bytes  # bytes from an earlier try were not downloaded at this speed
        part = min(1.0, n_bytes / max(1, total))
        if self._live:
            if now - self._drawn >= DRAW_S or n_bytes >= total:
                self._drawn = now
                speed = (n_bytes - self._first) / max(1e-3, now - self._started)
                write(sys.stderr, f"\r\033[2K{part:4.0%} of {size(total)}, {size(int(speed))}/s")
        elif int(part * 10) > self._tenth:
            self._tenth = int(part * 10)
            say(f"{part:.0%} of {size(total)}")

    def close(self) -> None:
        if self._live and self._drawn:
            write(sys.stderr, "\r\033[2K")
