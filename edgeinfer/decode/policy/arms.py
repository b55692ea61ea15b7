"""What a round may do (a drafter at a depth), what it did, and the protocol of what chooses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Arm:
    name: str  # "none" or the name of a drafter
    depth: int  # most drafts of the round; 0 for "none"


NONE = Arm("none", 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one round did. `drafted` may be less than the arm's depth: a drafter may propose less, or nothing."""

    drafted: int
    accepted: int
    emitted: int
    draft_s: float
    verify_s: float

    @property
    def seconds(self) -> float:
        return self.draft_s + self.verify_s


class Controller(Protocol):
    @property
    def plain_s(self) -> float:
        """Measured seconds of a plain round now; 0 if none was measured."""
        ...

    def choose(self, limit: int) -> Arm:
        """The arm of the next round, of depth <= `limit`."""
        ...

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        """Learn from a round, after its drafter was given the emitted tokens."""
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same arm: `--speculation off`, a forced drafter in a test, one arm of a benchmark."""

    arm: Arm = NONE
    plain_s: float = 0.0

    def choose(self, limit: int) -> Arm:
        return Arm(self.arm.name, min(self.arm.depth, limit)) if limit > 0 and self.arm.depth else NONE

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        del arm, outcome
