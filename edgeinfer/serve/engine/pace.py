"""What steps take here: measured, to size the chunks of a prompt and to say how long a request will wait."""

from __future__ import annotations

from typing import Final

CHUNK_BUDGET_S: Final = 0.05
CHUNK_BUDGET_ROUNDS: Final = 3.0  # where a plain round takes long, a chunk may take this many
MIN_CHUNK: Final = 8  # kernels take rows in lots of 8 or 16
MAX_CHUNK: Final = 256
FIRST_CHUNK: Final = 32  # before the first measurement
RATE: Final = 0.2  # of each new measurement in an estimate
FIRST_ANSWER_S: Final = 2.0


class Pace:
    """Estimates that follow the newest steps. Times are seconds."""

    def __init__(self) -> None:
        self._row_s = 0.0  # of a prompt
        self._round_s: dict[int, float] = {}  # by the number of conversations in it
        self._answer_s = FIRST_ANSWER_S

    def observe_chunk(self, n_rows: int, seconds: float) -> None:
        self._row_s = moved(self._row_s, seconds / n_rows)

    def observe_round(self, n_conversations: int, seconds: float) -> None:
        self._round_s[n_conversations] = moved(self._round_s.get(n_conversations, 0.0), seconds)

    def observe_answer(self, seconds: float) -> None:
        self._answer_s = moved(self._answer_s, seconds)

    @property
    def budget_s(self) -> float:
        """What a chunk of a prompt may take while others write: they wait for it."""
        plain = self._round_s[min(self._round_s)] if self._round_s else 0.0
        return max(CHUNK_BUDGET_S, CHUNK_BUDGET_ROUNDS * plain)

    def chunk_rows(self) -> int:
        """Rows of prompts in one step beside others: as many as the budget allows."""
        if not self._row_s:
            return FIRST_CHUNK
        return min(MAX_CHUNK, max(MIN_CHUNK, int(self.budget_s / self._row_s)))

    def wait_s(self, n_before: int, n_slots: int) -> float:
        """How long a request with `n_before` others in front of it is likely to wait."""
        return self._answer_s * (n_before + 1) / n_slots


def moved(estimate: float, measured: float) -> float:
    return measured if not estimate else estimate + RATE * (measured - estimate)
