"""Agreement while a draft was taught, by depth, and the expected speed-up by the size of the draft's head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeinfer.errors import BackendError
from edgeinfer.tune.job import Taught

__all__ = ["plot"]


def plot(taught: Sequence[Taught], path: Path) -> None:
    """Write a .png. Raises BackendError without matplotlib."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError("drawing needs matplotlib", hint="pip install 'edgeinfer[plot]'") from error
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    curve, depths, heads = figure.subplots(1, 3)
    for one in taught:
        for depth in range(len(one.curve[0].agreement)):
            steps, values = [p.step for p in one.curve], [p.agreement[depth] for p in one.curve]
            curve.plot(steps, values, marker=".", label=f"{one.kind}, draft {depth + 1}")
        for judged, text in ((one.answers[-1], "answers to prompts"), (one.own_text[-1], "own text")):
            numbers = range(1, len(judged.by_depth) + 1)
            depths.plot(numbers, judged.by_depth, marker="o", label=f"{one.kind}, {text}")
        sizes = [judged.n_vocab for judged in one.answers]
        heads.plot(sizes, [one.expected[n].speedup for n in sizes], marker="o", label=one.kind)
    labels = (("step", "agreement, held-out text"), ("draft of a round", "agreement"))
    for axis, (x, y) in zip((curve, depths), labels, strict=True):
        axis.set(xlabel=x, ylabel=y, ylim=(0, 1))
    depths.set_xticks(range(1, 1 + max(len(one.answers[-1].by_depth) for one in taught)))
    heads.set_xscale("log", base=2)
    heads.axhline(1.0, color="#888888", linewidth=1)
    heads.set(xlabel="tokens that a draft may guess", ylabel="expected speed-up on this device")
    for axis in (curve, depths, heads):
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=120)
