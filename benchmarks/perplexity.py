"""`python -m benchmarks perplexity`: what a tier, a window and a K/V type cost, in nats a token of a text."""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.models.from_folder import convert
from edgeinfer.backends import facts_of
from edgeinfer.bench.opened import OpenedModel, add_format_arguments, format_words, opened, path_of, text_tokens
from edgeinfer.bench.report import head, table
from edgeinfer.errors import UsageError
from edgeinfer.formats.bundle import is_bundle
from edgeinfer.named_files import write_text
from edgeinfer.plan.types import Plan, Request
from edgeinfer.protocols import Model
from edgeinfer.runner.choose import choose
from edgeinfer.types import KvType, Tokens
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Losses: TypeAlias = npt.NDArray[np.float64]  # nats, one a predicted token

_BUCKET = 128  # positions of one point of the curve
_STYLES = {"q8_0/f16": "-.", "q8_0": "--", "q4_0": ":"}  # of a line, by K/V type


@dataclass(frozen=True, slots=True)
class Result:
    """`late` leaves out the positions before the smallest window is full, where nothing is evicted yet."""

    what: str
    tier: str
    kv_type: KvType
    window: int
    sink: int
    perplexity: float
    late_perplexity: float
    curve: tuple[float, ...]  # perplexity of each 128 positions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", metavar="NAME|PATH", help="default: demo")
    parser.add_argument("--backend", default="", metavar="NAME", help="default: as `edgeinfer plan` chooses")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE", help="UTF-8 text that was not trained on")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="the same model: a bundle, a .gguf file or a bfloat16 folder; repeatable",
    )
    parser.add_argument("--length", type=int, default=2048, metavar="N", help="positions of one piece of text (2048)")
    parser.add_argument("--pieces", type=int, default=4, metavar="N", help="pieces of text (4)")
    add_format_arguments(parser)
    parser.add_argument("--windows", type=int, nargs="*", default=(256, 512), metavar="N", help="windows (256 512)")
    parser.add_argument("--json", action="store_true", help="one object a line on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the curves (needs matplotlib)")


def run(args: argparse.Namespace) -> int:
    results: list[Result] = []
    late = min(args.windows, default=0)
    with opened(_request(args.model, args.backend)) as subject:
        pieces = _pieces(subject, args)
        limit = subject.plan.model.shape.limit
        if args.length > limit:
            raise UsageError(f"--length must not pass the model's {limit} positions; received {args.length}")
        like, versions = path_of(subject.plan), dict(subject.versions)
        kinds = (args.kv_type,) if args.kv_type else _kv_types(subject.plan)
    for kind in kinds:
        with opened(_request(args.model, args.backend, kind)) as subject:
            for what, policy in _settings(args.length, args.windows, limit, all_sinks=kind == kinds[0]):
                results.append(_result(what, subject, policy, pieces, late))
                _show(results[-1], as_json=args.json)
    for what, path in _others(args.against, like):
        with path() as file, opened(_in_16_bits(file)) as other:
            results.append(_result(what, other, _whole(args.length), pieces, late))
            versions.update(other.versions)
            _show(results[-1], as_json=args.json)
    if args.out:
        write_text(args.out, markdown(results, subject, versions, args))
    if args.plot:
        draw(results, args.plot)
    return 0


def _request(model: str, backend: str, kv_type: KvType | None = None) -> Request:
    return Request(model=model, backend=backend, kv_type=kv_type, speculation="off", force=True)


def _in_16_bits(path: Path) -> Request:
    """`path` on the backend that would be chosen, with K and V in 16 bits where it has them."""
    request = _request(str(path), "")
    return replace(request, kv_type=_kv_types(choose(request, offline=True))[0])


def _kv_types(plan: Plan) -> tuple[KvType, ...]:
    """Those of the plan's backend on this device, 16 bits first where it has them. A bundle has one."""
    if plan.artifact.kv_type:
        return (plan.artifact.kv_type,)
    found = facts_of(plan.backend).capabilities(plan.device).kv_types
    return tuple(sorted(found, key=lambda kind: kind != "f16"))


def _settings(
    length: int, windows: Sequence[int], limit: int, *, all_sinks: bool
) -> Iterator[tuple[str, WindowPolicy]]:
    yield "everything kept", _whole(length)
    for window in windows:
        for sink in (128, 4, 0) if all_sinks else (4,):
            what = f"window {window}, " + (f"sink {sink}" if sink else "no sink")
            yield what, WindowPolicy(window, sink, max(64, window // 8), min(limit, length + window + 128))


def _whole(length: int) -> WindowPolicy:
    window = -(-max(length, 256) // 256) * 256
    return WindowPolicy(window, 0, 64, window)


class _Ready:
    """A file that is already there, as a context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Path:
        return self._path

    def __exit__(self, *error: object) -> None:
        pass


class _Converted:
    """A folder as a GGUF that is gone afterwards."""

    def __init__(self, folder: Path, like: Path) -> None:
        self._folder, self._like = folder, like
        self._place = tempfile.TemporaryDirectory()

    def __enter__(self) -> Path:
        file = Path(self._place.name) / "bf16.gguf"
        convert(self._folder, self._like, file)
        return file

    def __exit__(self, *error: object) -> None:
        self._place.cleanup()


def _others(against: Sequence[Path], like: Path) -> Iterator[tuple[str, Callable[[], _Ready | _Converted]]]:
    for path in against:
        if path.is_dir() and not is_bundle(path):
            yield "everything kept, bfloat16 weights", partial(_Converted, path, like)
        else:
            yield f"everything kept, {path.name}", partial(_Ready, path)


def _pieces(subject: OpenedModel, args: argparse.Namespace) -> list[Tokens]:
    text, length, n_pieces = args.text, args.length, args.pieces
    try:
        words = text.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise UsageError(f"{text} cannot be read: {error}") from error
    tokenizer = subject.model.tokenizer
    before, tokens = text_tokens(tokenizer, "", args.template), tokenizer.encode(words, special=False)
    step = len(tokens) // n_pieces
    if step < length:
        raise UsageError(f"{text} has {len(tokens)} tokens; {n_pieces} pieces of {length} need {n_pieces * length}")
    return [[*before, *tokens[at * step : at * step + length]][:length] for at in range(n_pieces)]


def _result(what: str, subject: OpenedModel, policy: WindowPolicy, pieces: Sequence[Tokens], late: int) -> Result:
    import numpy as np

    losses = np.array([_losses(subject.model, policy, piece) for piece in pieces])  # [pieces, length - 1]
    buckets = [losses[:, at : at + _BUCKET] for at in range(0, losses.shape[1], _BUCKET)]
    return Result(
        what=what,
        tier=subject.plan.artifact.tier,
        kv_type=subject.plan.kv_type,
        window=policy.window,
        sink=policy.sink,
        perplexity=math.exp(losses.mean()),
        late_perplexity=math.exp(losses[:, late:].mean()),
        curve=tuple(math.exp(bucket.mean()) for bucket in buckets),
    )


def _losses(model: Model, policy: WindowPolicy, tokens: Tokens) -> Losses:
    """-log p of tokens[1:], each predicted from those before it that the window shows."""
    import numpy as np

    cache = model.new_cache(policy)
    losses: list[float] = []
    try:
        while cache.length < len(tokens) - 1:
            at = cache.length
            n = min(policy.room(at), cache.chunk_rows, len(tokens) - 1 - at)
            step = cache.begin(n)
            rows = np.array([row.numpy() for row in step.verify(tokens[at : at + n])], np.float64)
            step.commit(n)
            top = rows.max(axis=1)
            total = top + np.log(np.exp(rows - top[:, None]).sum(axis=1))
            losses += (total - rows[np.arange(n), list(tokens[at + 1 : at + 1 + n])]).tolist()
    finally:
        cache.close()
    return np.array(losses)


def _show(result: Result, *, as_json: bool) -> None:
    found = f"{result.perplexity:.3f}, late {result.late_perplexity:.3f}"
    line = f"{result.what}, {result.tier}, K/V {result.kv_type}: {found}"
    sys.stdout.write((json.dumps(asdict(result)) if as_json else line) + "\n")
    sys.stdout.flush()


def markdown(
    results: Sequence[Result], subject: OpenedModel, versions: Mapping[str, str], args: argparse.Namespace
) -> str:
    model = Path(args.model).name
    command = ["python", "-m", "benchmarks", "perplexity", "--model", model, "--text", args.text.name]
    command += ["--backend", args.backend] if args.backend else []
    for path in args.against:
        command += ["--against", path.name]
    command += ["--length", str(args.length), "--pieces", str(args.pieces)]
    command += [*format_words(args), "--windows", *map(str, args.windows)]
    late = min(args.windows, default=0)
    rows = [[one.what, one.tier, one.kv_type, f"{one.perplexity:.3f}", f"{one.late_perplexity:.3f}"] for one in results]
    starts = range(0, args.length - 1, _BUCKET)
    curve = [[str(start), *(f"{one.curve[at]:.1f}" for one in results)] for at, start in enumerate(starts)]
    return (
        head(f"Perplexity of {subject.plan.model.name}", command, subject.plan.device, versions)
        + f"\n{args.pieces} piece{'s' if args.pieces > 1 else ''} of {args.length} tokens of {args.text.name}, "
        "teacher-forced, each from position 0. "
        f"Late: from position {late} on, where the smallest window begins to evict.\n\n"
        + table(["", "weights", "K and V", "perplexity", "late"], rows)
        + f"\nBy position ({_BUCKET} positions a row; columns in the order of the table above):\n\n"
        + table(["from", *(str(number) for number in range(1, len(results) + 1))], curve)
    )


def draw(results: Sequence[Result], path: Path) -> None:
    """Each result's perplexity divided by the first one's, by position, so that differences within the text cancel out.

    Raises UsageError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UsageError("drawing needs matplotlib", hint="pip install 'edgeinfer[plot]'") from error
    figure = Figure(figsize=(9, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    first = results[0]
    names = list(dict.fromkeys(one.what for one in results))
    for one in results:
        points = [(at + 0.5) * _BUCKET for at in range(len(one.curve))]
        shares = [mine / base for mine, base in zip(one.curve, first.curve, strict=True)]
        label = f"{one.what}, {one.tier}, K/V {one.kv_type}"
        color, style = f"C{names.index(one.what)}", _STYLES.get(one.kv_type, "-")
        axis.plot(points, shares, color=color, linestyle=style, label=label, linewidth=1.2)
    axis.set(xlabel="position", ylabel=f"perplexity over that of: {first.what}, {first.tier}, K/V {first.kv_type}")
    figure.legend(fontsize=7, loc="outside right center")
    figure.savefig(path, dpi=110)
