"""Plots quality against speed and against memory; a line joins the settings on the Pareto front."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeinfer.bench.quality.measure import Result
from edgeinfer.bench.quality.report import on_frontier
from edgeinfer.errors import BackendError

__all__ = ["plot"]


def plot(results: Sequence[Result], path: Path) -> None:
    """Write `path` as .png and .svg. Raises BackendError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("drawing needs matplotlib", hint="pip install 'edgeinfer[plot]'") from error
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, cost, scale, label in (
        (axes[0], "tokens_per_s", 1.0, "decode, tokens/s"),
        (axes[1], "memory_bytes", 1e-6, "memory, MB"),
    ):
        best = sorted(on_frontier(results, cost), key=lambda one: getattr(one, cost))
        axis.plot([getattr(one, cost) * scale for one in best], [one.kl for one in best], color="#1b6ca8", linewidth=1)
        for one in results:
            at = (getattr(one, cost) * scale, one.kl)
            axis.plot(*at, "o", color="#1b6ca8" if one in best else "#888888")
            axis.annotate(f"{one.tier} {one.kv_type}", at, textcoords="offset points", xytext=(4, 4), fontsize=7)
        axis.set_xlabel(label)
    axes[0].set_ylabel("KL against the best, nats (less is better)")
    axes[0].set_yscale("symlog", linthresh=1e-3)
    axes[0].set_ylim(bottom=0)
    for suffix in (".png", ".svg"):
        figure.savefig(path.with_suffix(suffix), dpi=120)
