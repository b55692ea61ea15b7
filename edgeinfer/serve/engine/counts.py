"""What a server has done since it started."""

from __future__ import annotations

from dataclasses import dataclass

from edgeinfer.decode.stats import AnswerStats


@dataclass(slots=True)
class Counts:
    """Counts are answers or tokens, times are seconds. Only the engine thread adds."""

    finished: int = 0
    canceled: int = 0
    failed: int = 0
    refused: int = 0  # refused because too many waited
    prompt: int = 0
    reused: int = 0
    emitted: int = 0
    drafted: int = 0
    accepted: int = 0
    evicted: int = 0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    waited_s: float = 0.0

    def add(self, stats: AnswerStats, *, waited_s: float) -> None:
        self.finished += 1
        self.prompt += stats.prompt
        self.reused += stats.reused
        self.emitted += stats.emitted
        self.drafted += stats.drafted
        self.accepted += stats.accepted
        self.evicted += stats.evicted
        self.prefill_s += stats.prefill_s
        self.decode_s += stats.decode_s
        self.waited_s += waited_s
