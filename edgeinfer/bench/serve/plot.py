"""Latency against clients: the first token, and the pieces that follow."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeinfer.bench.serve.measure import Measured, percentile
from edgeinfer.errors import BackendError

_COLORS: Final = {"edgeinfer": "#1b6ca8", "llama.cpp": "#c8553d"}
_LINES: Final = ((0.5, "-"), (0.95, "--"))


def plot(found: Measured, path: Path) -> None:
    """Write `path` as .png. Raises BackendError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("drawing needs matplotlib", hint="pip install 'edgeinfer[plot]'") from error
    figure = Figure(figsize=(8.4, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2)
    clients = list(found.loads)
    for axis, title in zip(axes, ("to the first token", "between pieces of text"), strict=True):
        for name in _COLORS:
            sides = [pairs.ours if name == "edgeinfer" else pairs.theirs for pairs in found.loads.values()]
            if not all(sides):
                continue
            first = title == "to the first token"
            times = [[t for one in side for t in (one.first_s if first else one.between_s)] for side in sides]
            for share, line in _LINES:
                values = [1000 * percentile(of, share) for of in times]
                axis.plot(clients, values, line, marker="o", color=_COLORS[name], label=f"{name}, {share:.0%}")
        axis.set_title(title)
        axis.set_xlabel("clients")
        axis.set_xticks(clients)
        axis.set_ylabel("milliseconds")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=8)
    figure.savefig(path.with_suffix(".png"), dpi=150)
