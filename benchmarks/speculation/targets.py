"""The targets for speculation, and whether a run meets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edgeinfer.bench.speculation.records import CONTROL, LARGE
from edgeinfer.bench.speculation.report import ALL, Row


@dataclass(frozen=True, slots=True)
class Target:
    what: str
    least: float
    applies: Callable[[Row], bool]
    value: Callable[[Row], float]


@dataclass(frozen=True, slots=True)
class Verdict:
    target: Target
    row: Row
    unbounded: int  # cells of one prompt each, which have no bounds to judge by

    @property
    def met(self) -> bool:
        return self.target.value(self.row) >= self.target.least


def _greedy(row: Row, arm: str, kind: str, tier: str, *, large: bool) -> bool:
    size = (row.n_params >= LARGE) == large
    return row.temperature == 0 and row.arm == arm and row.kind == kind and row.tier == tier and size


def _bounded(row: Row, temperature: float) -> bool:
    """A cell of `auto` that has bounds: one prompt alone has none."""
    return row.arm == "auto" and row.temperature == temperature and row.n_prompts > 1


def _high(row: Row) -> float:
    return row.speedup_high


def _ratio(row: Row) -> float:
    return row.speedup


NOT_SLOWER: Final = 0.98
TARGETS: Final = (
    Target("auto is nowhere slower: upper bound of every cell, greedy", NOT_SLOWER, lambda r: _bounded(r, 0.0), _high),
    Target("the same at temperature 0.7", NOT_SLOWER, lambda r: _bounded(r, 0.7), _high),
    Target("large F16, early exit alone", 1.12, lambda r: _greedy(r, "early-exit", ALL, "F16", large=True), _ratio),
    Target("large F16, auto", 1.30, lambda r: _greedy(r, "auto", ALL, "F16", large=True), _ratio),
    Target("large Q4_0, auto", 1.15, lambda r: _greedy(r, "auto", ALL, "Q4_0", large=True), _ratio),
    Target("large Q4_0, auto, copying", 1.50, lambda r: _greedy(r, "auto", "copy", "Q4_0", large=True), _ratio),
    Target("small Q4_0, auto, copying", 1.35, lambda r: _greedy(r, "auto", "copy", "Q4_0", large=False), _ratio),
)


def slower(rows: Sequence[Row], arm: str) -> tuple[int, int]:
    """Of the cells of `arm` that have bounds: how many would miss the first target, and how many there are."""
    cells = [row for row in rows if row.arm == arm and row.n_prompts > 1]
    return sum(row.speedup_high < NOT_SLOWER for row in cells), len(cells)


def _cell(row: Row) -> tuple[str, str, str, float]:
    return row.model, row.tier, row.arm, row.temperature


def verdicts(rows: Sequence[Row]) -> list[Verdict]:
    """The weakest row of each target that was measured, per model and tier."""
    found: list[Verdict] = []
    for target in TARGETS:
        matching = [row for row in rows if row.arm != CONTROL and target.applies(row)]
        for model, tier in dict.fromkeys((row.model, row.tier) for row in matching):
            cells = [row for row in matching if (row.model, row.tier) == (model, tier)]
            alone = [row for row in rows if (row.model, row.tier, row.arm, row.temperature) == _cell(cells[0])]
            unbounded = sum(row.n_prompts == 1 for row in alone) if target.value is _high else 0
            found.append(Verdict(target, min(cells, key=target.value), unbounded))
    return found
