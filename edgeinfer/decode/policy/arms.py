"""Arms of a round (a drafter at a depth) and the seam of what chooses between them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edgeinfer.types import Tokens


@dataclass(frozen=True, slots=True)
class Arm:
    name: str  # "none", "early-exit", "lookup", "draft"
    depth: int  # drafts a round, at most; 0 for "none"


NONE = Arm("none", 0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one round did. `drafted` may be less than the arm's depth: a drafter may propose less, or nothing."""

    drafted: int
    accepted: int
    emitted: int
    draft_s: float
    verify_s: float


class Controller(Protocol):
    @property
    def plain_s(self) -> float:
        """Seconds of a plain round as it would be now, by what was measured; 0 where nothing was."""
        ...

    def choose(self, context: Tokens, limit: int) -> Arm:
        """The arm of the next round, of depth <= `limit`; `context` [n] ends with the token not yet in the cache."""
        ...

    def observe(self, arm: Arm, outcome: Outcome) -> None: ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """Always the same arm: `--speculation off`, a forced drafter in a test, one arm of a bench."""

    arm: Arm = NONE
    plain_s: float = 0.0

    def choose(self, context: Tokens, limit: int) -> Arm:
        del context
        return Arm(self.arm.name, min(self.arm.depth, limit)) if limit > 0 and self.arm.depth else NONE

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        del arm, outcome
