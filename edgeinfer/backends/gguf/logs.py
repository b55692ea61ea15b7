"""What llama.cpp logs, kept for error messages instead of printed."""

from __future__ import annotations

from collections import deque
from typing import Final

_WARN: Final = 3  # ggml.h, enum ggml_log_level: 1 debug, 2 info, 3 warning, 4 error, 5 continues the line before
_CONTINUED: Final = 5


class EngineLog:
    """The newest warnings and errors of the engine, oldest first. llama.cpp has one log for the whole process."""

    def __init__(self, n_lines: int = 20) -> None:
        self._lines: deque[str] = deque(maxlen=n_lines)
        self._level = 0

    def write(self, level: int, text: str) -> None:
        continued = level == _CONTINUED
        if not continued:
            self._level = level
        if self._level < _WARN:
            return
        if continued and self._lines:
            self._lines[-1] += text
        else:
            self._lines.append(text)

    def clear(self) -> None:
        self._lines.clear()

    def tail(self, n_lines: int = 2) -> str:
        """The last `n_lines` lines as one, for a message; "" when nothing was logged."""
        lines = [line for text in self._lines for line in text.strip().splitlines() if line.strip()]
        return "; ".join(line.strip() for line in lines[-n_lines:])
