"""Measured times of steps, to size the chunks of a prompt and to estimate how long a request will wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from edgeinfer.decode.policy.costs import interpolate

CHUNK_BUDGET_S: Final = 0.05
CHUNK_BUDGET_ROUNDS: Final = 3.0  # where a round of the other answers takes long, a chunk may take this many
MIN_CHUNK: Final = 8  # kernels process rows in tiles of 8 or 16
MAX_CHUNK: Final = 256
FIRST_CHUNK: Final = 32  # before the first measurement
RATE: Final = 0.2  # of each new measurement in an estimate
FIRST_ANSWER_S: Final = 2.0


class Pace:
    """Estimates that follow the newest steps. Times are seconds."""

    def __init__(self) -> None:
        self._row_s = 0.0  # of a prompt
        self._forward_s: dict[int, float] = {}  # by the rows of all conversations in it
        self._answer_s = FIRST_ANSWER_S

    def observe_chunk(self, n_rows: int, seconds: float) -> None:
        if n_rows >= MIN_CHUNK:  # a row of fewer takes longer, and would make all chunks short
            self._row_s = moved(self._row_s, seconds / n_rows)

    def observe_round(self, rows: Sequence[int], seconds: float) -> None:
        """A round with this number of rows for each conversation. Those with equally many were one forward."""
        forwards = sorted(Counter(rows).items())
        if len(forwards) == 2 and forwards[0] == (1, forwards[0][1]):
            seconds -= self.forward_s(forwards[0][1])
        if 1 <= len(forwards) <= 2 and seconds > 0:
            n_rows, n_conversations = forwards[-1]
            total = n_rows * n_conversations
            self._forward_s[total] = moved(self._forward_s.get(total, 0.0), seconds)

    def forward_s(self, n_rows: int) -> float:
        """Interpolated between the numbers of rows that were measured."""
        return interpolate(self._forward_s, n_rows) if self._forward_s else float(n_rows)

    def observe_answer(self, seconds: float) -> None:
        self._answer_s = moved(self._answer_s, seconds)

    def budget_s(self, n_writing: int) -> float:
        """Time that a chunk of a prompt may take while `n_writing` other answers wait for it.

        They keep at least a quarter of their speed. Shorter chunks would cost speed later, too: answers that begin one
        after the other also end so, and steps of few rows give fewer tokens a second.
        """
        rounds = CHUNK_BUDGET_ROUNDS * self.forward_s(n_writing) if self._forward_s else 0.0
        return max(CHUNK_BUDGET_S, rounds)

    def chunk_rows(self, n_writing: int) -> int:
        """Rows of prompts in one step beside `n_writing` answers: as many as the budget allows."""
        if not self._row_s:
            return FIRST_CHUNK
        return min(MAX_CHUNK, max(MIN_CHUNK, int(self.budget_s(n_writing) / self._row_s)))

    def wait_s(self, n_before: int, n_slots: int) -> float:
        """How long a request with `n_before` others in front of it is likely to wait."""
        return self._answer_s * (n_before + 1) / n_slots


def moved(estimate: float, measured: float) -> float:
    return measured if not estimate else estimate + RATE * (measured - estimate)
