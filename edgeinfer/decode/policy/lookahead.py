"""How far a round should draft: backward induction over its drafts, by what the gate has learned and what drafts cost.

After every draft a round may stop and verify all drafts, stop and verify all but the newest, or draft once more. What
each is worth follows from the same choice one draft later, so that a second row that does not pay by itself is bought
where a third and a fourth are likely to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeinfer.decode.policy.gate import N_BUCKETS, N_STATES, Gate

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

# Probabilities that all drafts of a round so far are right, for which the choice is worked out. Values between them are
# interpolated.
REACHED: Final = (0.0, 0.02, 0.05, 0.1, 0.17, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 1.0)
NEVER: Final = 2.0


@dataclass(frozen=True, slots=True)
class RoundTimes:
    """Times in plain rounds. Both lists have one for each number of verified drafts, from 0."""

    first_draft: float
    deeper_draft: float
    all_kept: Sequence[float]  # verify of n drafts; the first is not used
    last_dropped: Sequence[float]  # verify of n drafts out of n + 1

    @property
    def max_drafts(self) -> int:
        return len(self.all_kept) - 1


@dataclass(frozen=True, slots=True)
class LookAhead:
    """`least_reached` [drafts made][state]: one more draft pays if those made are right with this probability.

    `tokens` and `time` [state] are what a round that begins in this state is expected to give and to take.
    """

    least_reached: Sequence[Sequence[float]]
    tokens: Sequence[float]
    time: Sequence[float]

    def goes_on(self, n_drafts: int, state: int, reached: float) -> bool:
        return reached >= self.least_reached[n_drafts][state]


def look_ahead(gate: Gate, times: RoundTimes, tokens_per_time: float) -> LookAhead:
    """`tokens_per_time` is what the time of a plain round would earn elsewhere, in tokens."""
    import numpy as np

    rates = np.array([gate.acceptance(state) for state in range(N_BUCKETS)])
    following = np.array([gate.following(state) for state in range(N_STATES)])
    grid = np.array(REACHED)
    reached = rates[:, None] * grid  # [bucket, reached]: with one more draft of this bucket
    above = np.searchsorted(grid, reached).clip(1)
    share = (reached - grid[above - 1]) / (grid[above] - grid[above - 1])
    below = np.arange(N_BUCKETS)[:, None] * len(grid) + above - 1  # where `reached` lies in a flat [bucket, reached]

    def worth(rest: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        worth_of: npt.NDArray[np.float64] = rest[0] - tokens_per_time * rest[1]
        return worth_of

    n = times.max_drafts
    least: list[list[float]] = [[NEVER] * N_STATES for _ in range(n + 1)]
    rest = np.zeros((2, N_STATES, len(grid)))  # tokens and time of the rest of the round, after n drafts
    rest[1] = times.all_kept[n]
    while True:
        n -= 1
        flat = rest.reshape(2, -1)
        low, high = flat.take(below, axis=1), flat.take(below + 1, axis=1)
        kept = low + share * (high - low)
        kept[0] += reached
        dropped = np.array([0.0, times.last_dropped[n]])[:, None, None]
        more = following @ np.where(worth(kept) > worth(dropped), kept, dropped)
        more[1] += times.deeper_draft if n else times.first_draft
        if not n:
            return LookAhead(least, (1.0 + more[0, :, -1]).tolist(), more[1, :, -1].tolist())
        stop = np.array([0.0, times.all_kept[n]])[:, None, None]
        goes_on = worth(more) > worth(stop)
        best = goes_on & (grid + worth(more) > -tokens_per_time * times.last_dropped[n - 1])
        least[n] = np.where(best.any(axis=1), grid[best.argmax(axis=1)], NEVER).tolist()
        rest = np.where(goes_on, more, stop)
