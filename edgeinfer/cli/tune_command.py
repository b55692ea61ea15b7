"""`edgeinfer tune`: teach a draft to a model, so that it drafts for itself."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from edgeinfer.cli.options import add_json_option, model_name, positive
from edgeinfer.cli.output import colored, say, show, show_json, size
from edgeinfer.errors import BackendError, UsageError

if TYPE_CHECKING:
    from edgeinfer.tune.drafts import Kind
    from edgeinfer.tune.expect import Expected
    from edgeinfer.tune.job import Forecast, Taught
    from edgeinfer.tune.teach import Progress

HELP = "teach a draft to a model, which can make it faster with the same tokens"
USAGE = "tune NAME [--kind KIND] [--minutes N] [--out FILE]"
EXAMPLES = """\
  edgeinfer tune ./model.gguf                      writes model.draft.safetensors beside it, in half an hour
  edgeinfer tune ./model.gguf --kind both          an exit draft and a feature draft
  edgeinfer tune ./model.gguf --data chats.jsonl   on your conversations
"""
KINDS: dict[str, tuple[Kind, ...]] = {"feature": ("feature",), "exit": ("exit",), "both": ("feature", "exit")}
DEVICES = ("cuda", "mps", "cpu")
DRAW_S = 0.2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=model_name, metavar="NAME", help="a catalog name or a .gguf file (llama and qwen3 models)"
    )
    parser.add_argument(
        "--kind",
        default="feature",
        choices=tuple(KINDS),
        metavar="KIND",
        help="feature: from the model's hidden states; exit: from its first layers; both",
    )
    parser.add_argument("--exit-layer", type=int, default=2, metavar="N", help="layers before an exit draft (2)")
    parser.add_argument("--minutes", type=positive, default=30.0, metavar="N", help="time limit (30)")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help='conversations to teach on, one a line: {"messages": [...]}; without it the model writes them',
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="NAME.draft.safetensors; default: beside the model")
    parser.add_argument("--device", default="", choices=DEVICES, metavar="WHERE", help="cuda, mps or cpu")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw agreement and expected speed-up as a .png")
    parser.add_argument("--force", action="store_true", help="teach even if no speed-up is expected on this device")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("-y", "--yes", action="store_true", help="download without asking")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    check_installed(args.plot)
    from edgeinfer.cli.opening import downloads_from
    from edgeinfer.tune.job import TuneRequest, tune

    request = TuneRequest(
        args.model, KINDS[args.kind], args.minutes, args.exit_layer, args.data, args.out, args.device, args.force
    )
    said = Said()
    try:
        with downloads_from(args) as downloads:
            taught = tune(request, downloads, said)
    except KeyboardInterrupt:
        said.close()
        say("stopped; the same command continues where it was")
        raise
    said.close()
    if args.plot:
        from edgeinfer.tune.plot import plot

        plot(taught, args.plot)
    if args.json:
        show_json({"forecast": asdict(said.said) if said.said else None, "taught": [as_json(one) for one in taught]})
        return 0
    for one in taught:
        for line in lines_of(one):
            show(line)
    return 0


def check_installed(plot: Path | None) -> None:
    """Raises BackendError before anything is loaded or taught."""
    from importlib.util import find_spec

    if missing := [name for name in ("torch", "safetensors") if find_spec(name) is None]:
        raise BackendError(f"teaching needs {' and '.join(missing)}", hint="pip install 'edgeinfer[tune]'")
    if plot is None:
        return
    if find_spec("matplotlib") is None:
        raise BackendError("drawing needs matplotlib", hint="pip install 'edgeinfer[plot]'")
    if plot.suffix != ".png" or not plot.absolute().parent.is_dir():
        raise UsageError(f"--plot {plot}: must be a .png in a folder that exists", hint="--plot agreement.png")


class Said:
    """Progress of teaching: one line that is redrawn, or in a log a line for each tenth."""

    def __init__(self) -> None:
        self.said: Forecast | None = None
        self._live = colored(sys.stderr)
        self._drawn = 0.0
        self._tenths: dict[str, int] = {}

    def waiting(self, sentence: str) -> None:
        say(sentence)

    def forecast(self, forecast: Forecast) -> None:
        self.said = forecast
        for line in forecast_lines(forecast):
            say(line)

    def wrote(self, n_parts: int, of: int, n_tokens: int) -> None:
        self._draw("text", n_parts / of, f"writing text: {n_parts} of {of} parts, {n_tokens:,} tokens")

    def taught(self, kind: Kind, progress: Progress) -> None:
        agreement = f"agreement {progress.curve[-1].agreement[0]:.3f}" if progress.curve else "not judged yet"
        left = (progress.n_steps - progress.step) * progress.s_per_step
        self._draw(
            kind,
            progress.step / progress.n_steps,
            f"teaching {kind}: step {progress.step} of {progress.n_steps}, loss {progress.loss:.3f}, {agreement}, "
            f"{duration(left)} left",
        )

    def _draw(self, stage: str, done: float, text: str) -> None:
        if self._live:
            now = perf_counter()
            if now - self._drawn >= DRAW_S or done >= 1:
                self._drawn = now
                sys.stderr.write(f"\r\033[2K{text}")
                sys.stderr.flush()
        elif int(done * 10) > self._tenths.get(stage, -1):
            self._tenths[stage] = int(done * 10)
            say(text)

    def close(self) -> None:
        if self._live and self._drawn:
            sys.stderr.write("\n")
            sys.stderr.flush()


def forecast_lines(forecast: Forecast) -> list[str]:
    positions = ", ".join(f"{kind} {n:,}" for kind, n in forecast.n_positions.items())
    costs = ", ".join(f"{n} rows {cost:.2f}" for n, cost in enumerate(forecast.row_costs[1:5], 2))
    return [
        f"model    {forecast.title}",
        f"where    {forecast.device}",
        f"time     about {duration(forecast.seconds)}: {forecast.n_text_tokens:,} tokens of text, "
        f"positions to teach: {positions}",
        f"memory   up to {size(forecast.memory_bytes)} of {size(forecast.budget_bytes)}",
        f"rows     cost, in plain tokens: {costs or 'only one row is exact'}",
        *(f"expected {kind}: {expectation(one)}" for kind, one in forecast.expected.items()),
    ]


def expectation(expected: Expected) -> str:
    if not expected.depth:
        return "no speed-up is expected on this device, at the agreement that drafts reached on a GPU"
    return (
        f"{expected.speedup:.2f} times plain speed with {expected.depth} drafts a round, "
        "at the agreement that drafts reached on a GPU"
    )


def lines_of(taught: Taught) -> list[str]:
    def shares(values: tuple[float, ...]) -> str:
        return " ".join(f"{value:.3f}" for value in values)

    widest = taught.answers[-1]
    return [
        f"{taught.path}",
        f"  answers to prompts  {shares(widest.by_depth)} by depth, on {widest.n:,} tokens",
        *(f"  at temperature {one.temperature:g}  {shares(one.by_depth)}" for one in taught.sampled),
        f"  its own text        {shares(taught.own_text[-1].by_depth)} by depth, on {taught.own_text[-1].n:,} tokens",
        *(
            f"  head of {one.n_vocab:<6}      agrees {one.by_depth[0]:.3f}; expected: "
            f"{taught.expected[one.n_vocab].speedup:.2f} times plain speed"
            for one in taught.answers
        ),
    ]


def as_json(taught: Taught) -> dict[str, object]:
    return asdict(taught) | {"path": str(taught.path)}


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
