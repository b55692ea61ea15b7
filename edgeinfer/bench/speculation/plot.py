"""Speed-up against acceptance, a mark for each model, kind and arm."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from edgeinfer.bench.speculation.records import CONTROL
from edgeinfer.bench.speculation.report import ALL, Row
from edgeinfer.errors import BackendError

_COLORS: Final = {
    "auto": "#1b6ca8",
    "early-exit": "#c8553d",
    "lookup": "#588b4a",
    "draft": "#8a5aa8",
    "exit": "#7d5a3c",
    "feature": "#c9a227",
}
_MARKS: Final = "osD^vP*X"


def plot(rows: Sequence[Row], path: Path) -> None:
    """Write `path` as .png and .svg. Raises BackendError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("drawing needs matplotlib", hint="pip install 'edgeinfer[plot]'") from error
    shown = [row for row in rows if row.acceptance is not None and row.arm != CONTROL and row.temperature == 0]
    arms = list(dict.fromkeys(row.arm for row in shown))
    models = list(dict.fromkeys((row.model, row.tier) for row in shown))
    figure = Figure(figsize=(4.2 * max(1, len(arms)), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(1, len(arms)), sharey=True, squeeze=False)[0]
    for axis, arm in zip(axes, arms, strict=False):
        for mark, model in zip(_MARKS * 4, models, strict=False):
            cells = [row for row in shown if row.arm == arm and (row.model, row.tier) == model and row.kind != ALL]
            if not cells:
                continue
            axis.errorbar(
                [row.acceptance for row in cells],
                [row.speedup for row in cells],
                yerr=[
                    [max(0.0, row.speedup - row.speedup_low) for row in cells],
                    [max(0.0, row.speedup_high - row.speedup) for row in cells],
                ],
                fmt=mark, color=_COLORS.get(arm, "#444444"), alpha=0.75, capsize=2, label=" ".join(model),
            )  # fmt: skip
        axis.axhline(1.0, color="#888888", linewidth=1)
        axis.set_title(arm)
        axis.set_xlabel("acceptance (accepted / drafted)")
        axis.set_xlim(0, 1.02)
        axis.legend(fontsize=7)
    axes[0].set_ylabel("speed-up over plain, by kind of prompt")
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=150)
