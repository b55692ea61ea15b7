"""What the parts of a round cost on this device: measured once before the first answer, then by every round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

Part: TypeAlias = Literal["verify", "back", "back-short", "exit-draft", "model-draft"]
"""`verify`: rows through the whole model; `back`: rows whose early layers all ran, `back-short`: all but the newest's;
the others: one draft."""

_CLIP: Final = 0.25  # a round counts as this far from its estimate at most, so that an outlier is only a nudge
_UNIT_RATE: Final = 0.1  # how fast the unit follows heat, load and a longer context
_DRIFT_RATE: Final = 0.15
_FIRST_ROUNDS: Final = 4  # the prior may be of another day: the first rounds may move the unit at once
_LEAST_RATE: Final = 0.04  # of a ratio, once it has been seen often


@dataclass(frozen=True, slots=True)
class RowCosts:
    """Seconds before any answer. Rows are counts of one verify; those between the measured ones are interpolated."""

    verify_s: Mapping[int, float]  # 1 is a plain round
    back_s: Mapping[int, float] = field(default_factory=dict)  # after as many drafts as rows
    back_short_s: Mapping[int, float] = field(default_factory=dict)  # after one draft less
    exit_draft_s: float = 0.0  # 0: the model does not draft by itself
    model_draft_s: float = 0.0  # 0: no draft model

    @property
    def plain_s(self) -> float:
        return self.verify_s[1]


def interpolate(points: Mapping[int, float], rows: int) -> float:
    """Seconds of `rows` rows: linear between the measured counts, and on along the last two, or as steep as from the
    first to the last: kernels take rows in lots, so that costs may fall from one count to the next."""
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
    """Costs in units of a plain round. The unit is followed live; the ratios to it move slowly.

    A machine that heats, a neighbor's load and a growing context change all costs alike. Only a plain round moves the
    unit, and `drift` says when one is due: while the other rounds take longer or less than they should.
    """

    def __init__(self, prior: RowCosts, max_rows: int) -> None:
        self.unit_s = prior.plain_s
        self.max_rows = max_rows
        self._ratios: dict[tuple[Part, int], float] = {}
        self._seen: dict[tuple[Part, int], int] = {}
        self.drift = 0.0  # by how much rounds that were not plain have lately missed their estimates
        self._n_plain = 0
        for rows in range(1, max_rows + 1):
            self._ratios["verify", rows] = interpolate(prior.verify_s, rows) / prior.plain_s
            if prior.back_s:
                self._ratios["back", rows] = interpolate(prior.back_s, rows) / prior.plain_s
                self._ratios["back-short", rows] = interpolate(prior.back_short_s, rows) / prior.plain_s
        self._ratios["exit-draft", 1] = prior.exit_draft_s / prior.plain_s
        self._ratios["model-draft", 1] = prior.model_draft_s / prior.plain_s

    def ratio(self, part: Part, rows: int = 1) -> float:
        """Plain rounds that this part takes. A count above `max_rows` is not known: KeyError."""
        return self._ratios[part, rows]

    def is_known(self, part: Part, rows: int) -> bool:
        """Whether answers have shown what this part takes; else it is what was measured before the first one."""
        return self._seen.get((part, rows), 0) >= _FIRST_ROUNDS

    def observe(self, part: Part, rows: int, seconds: float) -> None:
        """One measured part of a round. It moves its own ratio; a single row verified sets the unit."""
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
        if seen == 1:  # the engine builds a graph for so many rows: later ones do not pay for that
            return
        surprise = seconds / (self.unit_s * ratio) - 1.0
        if seen <= _FIRST_ROUNDS:
            step = min(max(surprise, -0.5), 1.0) / (seen + 1)
            self._take_along(part, step / 2)
        else:
            step = max(1.0 / (seen + 1), _LEAST_RATE) * _clipped(surprise)
        self._ratios[key] = ratio * (1.0 + step)
        self.drift += _DRIFT_RATE * (_clipped(surprise) - self.drift)

    def _take_along(self, part: Part, step: float) -> None:
        """What is wrong about one count of rows is likely wrong about those that were not seen yet."""
        for rows in range(2, self.max_rows + 1):
            if (part, rows) not in self._seen and (part, rows) in self._ratios:
                self._ratios[part, rows] *= 1.0 + step

    def observe_plain(self, seconds: float) -> None:
        """A plain round: it sets the unit."""
        self._n_plain += 1
        if self._n_plain <= _FIRST_ROUNDS:
            self.unit_s += (seconds - self.unit_s) / (self._n_plain + 1)
        else:
            rate = _UNIT_RATE + min(abs(self.drift), _CLIP)  # the more is unsure, the more one plain round tells
            self.unit_s *= 1.0 + rate * _clipped(seconds / self.unit_s - 1.0)
        self.drift *= 0.5


def _clipped(surprise: float) -> float:
    return min(max(surprise, -_CLIP), _CLIP)
