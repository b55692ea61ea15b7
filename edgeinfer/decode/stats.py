"""Counts and times of one answer. Filled by the loop, read by `--stats`, `--json` and the bench."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from edgeinfer.decode.policy.arms import NONE, Outcome

MIN_PLAIN_ROUNDS: Final = 24
SHORT_CHAT: Final = 1024  # positions; in a longer context, reading K and V takes a measurable part of a round

FinishReason: TypeAlias = Literal["", "stop", "length", "canceled"]
"""Why an answer ended; "" while it runs."""


@dataclass(slots=True)
class ArmStats:
    """One arm of the controller: a drafter at a depth, or `none`."""

    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    emitted: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class AnswerStats:
    """Counts are tokens, times are seconds."""

    prompt: int = 0
    reused: int = 0  # of the prompt, already in the cache
    prefilled: int = 0  # of the prompt, newly run
    reprefilled: int = 0  # run again because their keys were gone
    kept: int = 0  # positions in the cache at the end
    evicted: int = 0  # positions that left the window during this answer
    reanchored: int = 0  # times the positions started again at 0
    emitted: int = 0
    prefill_s: float = 0.0
    first_token_s: float = 0.0
    decode_s: float = 0.0
    finish: FinishReason = ""
    plain_s_per_token: float = 0.0  # of a round without a draft, as the controller measured it; 0: not measured
    arms: dict[str, ArmStats] = field(default_factory=dict)

    def add(self, name: str, outcome: Outcome, seconds: float) -> None:
        """Count one round of the arm `name`. `seconds` includes choosing the arm and learning from the outcome."""
        self.decode_s += seconds
        arm = self.arms.get(name)
        if arm is None:
            arm = self.arms[name] = ArmStats()
        arm.rounds += 1
        arm.drafted += outcome.drafted
        arm.accepted += outcome.accepted
        arm.emitted += outcome.emitted
        arm.seconds += seconds

    def plain_tokens_per_s(self) -> float:
        """Speed of the rounds without a draft. 0 if too few were measured, or the context was longer than a short
        chat."""
        plain = self.arms.get(NONE.name)
        if plain is None or plain.rounds < MIN_PLAIN_ROUNDS or self.kept > SHORT_CHAT or plain.seconds <= 0:
            return 0.0
        return plain.emitted / plain.seconds

    @property
    def rounds(self) -> int:
        return sum(arm.rounds for arm in self.arms.values())

    @property
    def drafted(self) -> int:
        return sum(arm.drafted for arm in self.arms.values())

    @property
    def accepted(self) -> int:
        return sum(arm.accepted for arm in self.arms.values())

    @property
    def tokens_per_s(self) -> float:
        """Decode speed without the first token, which comes from the prefill."""
        return (self.emitted - 1) / self.decode_s if self.emitted > 1 and self.decode_s > 0 else 0.0
