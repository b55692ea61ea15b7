"""Times of the parts of a round on this device: measured before the first answer, then updated by every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Part: TypeAlias = Literal["verify", "back", "back-short", "exit-draft", "model-draft"]
"""`verify`: rows through all layers. `back`: rows through the late layers, after drafts ran the early ones for all of
them; `back-short`: the same, after drafts ran them for all rows but the newest. The others: one draft, with FIRST or
DEEPER in place of the number of rows."""

FIRST: Final = 1  # the first draft of a round: its weights have left the processor's caches
DEEPER: Final = 2

# How fast estimates follow the rounds. Chosen on the simulated devices of tests/unit/test_controller.py, where priors
# are wrong, rounds are noisy and the machine slows down.
MAX_SURPRISE: Final = 0.25  # relative; an outlier counts as no more than this
UNIT_RATE: Final = 0.1
DRIFT_RATE: Final = 0.15
MIN_RATIO_RATE: Final = 0.04
MAX_ROUND: Final = 8.0  # times the unit or what is expected: a round that takes longer counts as no longer
PLAIN_MEMORY: Final = 64.0  # plain rounds
FIRST_ROUNDS: Final = 4  # stored costs may be out of date, so the first rounds move an estimate quickly


@dataclass(frozen=True, slots=True)
class RowCosts:
    """Seconds by the number of rows, measured before any answer."""

    verify_s: Mapping[int, float]  # 1 is a plain round
    back_s: Mapping[int, float] = field(default_factory=dict)  # after as many drafts as rows
    back_short_s: Mapping[int, float] = field(default_factory=dict)  # after one draft fewer
    exit_draft_s: float = 0.0  # 0: the model has no early exit
    first_draft_s: float = 0.0  # the first draft of a round; 0: as long as a deeper one
    model_draft_s: float = 0.0  # 0: no draft model

    @property
    def plain_s(self) -> float:
        return self.verify_s[1]


def interpolate(points: Mapping[int, float], rows: int) -> float:
    """Seconds of `rows` rows. Interpolates linearly. Beyond the largest measured count, extrapolates with the steeper
    of the last slope and the overall slope, because kernels process rows in tiles: the last slope may be negative."""
    if rows in points:
        return points[rows]
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]] * rows / known[0]
    upper = next((i for i, count in enumerate(known) if count > rows), len(known) - 1)
    a, b = known[max(upper - 1, 0)], known[max(upper, 1)]
    slope = (points[b] - points[a]) / (b - a)
    if rows > known[-1]:
        slope = max(slope, (points[known[-1]] - points[known[0]]) / (known[-1] - known[0]))
        a = b
    return points[a] + slope * (rows - a)


class Costs:
    """Times of the parts of a round, in plain rounds. Shared by the conversations of a model.

    Heat, load and a growing context change all times alike: the unit (seconds of a plain round) moves quickly, and the
    ratios to it move slowly. Only a plain round moves the unit. `drift` shows when one is due: it is how far the other
    rounds have recently been from their estimates.

    The unit and the ratios are near the median, since an outlier moves them little. `plain_mean` is the mean of a plain
    round, outliers included: rounds of many parts meet more of them, and are judged by their mean.
    """

    def __init__(self, prior: RowCosts, max_rows: int) -> None:
        self.unit_s = prior.plain_s
        self.max_rows = max_rows
        self._ratios: dict[tuple[Part, int], float] = {}
        self._seen: dict[tuple[Part, int], int] = {}
        self.plain_mean = 1.0  # in units
        self.drift = 0.0  # relative; positive when rounds take longer than estimated
        self._n_plain = 0
        for rows in range(1, max_rows + 1):
            self._ratios["verify", rows] = interpolate(prior.verify_s, rows) / prior.plain_s
            if prior.back_s:
                self._ratios["back", rows] = interpolate(prior.back_s, rows) / prior.plain_s
                self._ratios["back-short", rows] = interpolate(prior.back_short_s, rows) / prior.plain_s
        self._ratios["exit-draft", FIRST] = (prior.first_draft_s or prior.exit_draft_s) / prior.plain_s
        self._ratios["exit-draft", DEEPER] = prior.exit_draft_s / prior.plain_s
        for place in (FIRST, DEEPER):
            self._ratios["model-draft", place] = prior.model_draft_s / prior.plain_s

    def ratio(self, part: Part, rows: int = 1) -> float:
        """Plain rounds that this part takes. Raises KeyError for more than `max_rows` rows."""
        return self._ratios[part, rows]

    def is_known(self, part: Part, rows: int) -> bool:
        """Whether rounds have confirmed or corrected the stored time of this part."""
        return self._seen.get((part, rows), 0) >= FIRST_ROUNDS

    def observe(self, part: Part, rows: int, seconds: float) -> None:
        """One measured part of a round. It moves its own ratio; a verify of one row moves the unit."""
        if rows == 1 and part == "verify":
            self.observe_plain(seconds)
            return
        key = (part, rows)
        ratio = self._ratios.get(key, 0.0)
        if ratio <= 0.0:
            self._ratios[key] = seconds / self.unit_s
            return
        seen = self._seen.get(key, 0) + 1
        self._seen[key] = seen
        if seen == 1:  # the engine builds a graph for this number of rows; later rounds reuse it
            return
        surprise = seconds / (self.unit_s * ratio) - 1.0
        if seen <= FIRST_ROUNDS:
            step = min(max(surprise, -0.5), 1.0) / (seen + 1)
        else:
            step = max(1.0 / (seen + 1), MIN_RATIO_RATE) * _clip(surprise)
        self._correct_unseen(part, step / 2)
        self._ratios[key] = ratio * (1.0 + step)
        self.drift += DRIFT_RATE * (_clip(surprise) - self.drift)

    def _correct_unseen(self, part: Part, step: float) -> None:
        """An error at one number of rows is likely at the numbers that were not seen yet."""
        for rows in range(2, self.max_rows + 1):
            if (part, rows) not in self._seen and (part, rows) in self._ratios:
                self._ratios[part, rows] *= 1.0 + step

    def observe_plain(self, seconds: float) -> None:
        self._n_plain += 1
        mean_rate = 1.0 / min(self._n_plain + FIRST_ROUNDS, PLAIN_MEMORY)
        self.plain_mean += mean_rate * (min(seconds / self.unit_s, MAX_ROUND) - self.plain_mean)
        if self._n_plain <= FIRST_ROUNDS:
            self.unit_s += (seconds - self.unit_s) / (self._n_plain + 1)
        else:
            rate = UNIT_RATE + min(abs(self.drift), MAX_SURPRISE)  # a plain round counts more after a drift
            self.unit_s *= 1.0 + rate * _clip(seconds / self.unit_s - 1.0)
        self.drift *= 0.5


def _clip(surprise: float) -> float:
    return min(max(surprise, -MAX_SURPRISE), MAX_SURPRISE)
