"""`edgeinfer bench quality`: what tiers, K/V types and backends cost in quality, and give in speed and memory."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from edgeinfer.backends.gguf.facts import FACTS as LLAMA_CPP
from edgeinfer.backends.reference.facts import FACTS as REFERENCE
from edgeinfer.bench.opened import path_of
from edgeinfer.bench.quality.files import layer_types, quantized
from edgeinfer.bench.quality.measure import Reference, Result, Setting, measure
from edgeinfer.bench.quality.plot import plot
from edgeinfer.bench.quality.report import Layer, markdown
from edgeinfer.bench.report import check_outputs, print_report, say
from edgeinfer.errors import BackendError, NoPlanError, UsageError
from edgeinfer.named_files import read_text, write_text
from edgeinfer.plan.types import Request
from edgeinfer.runner.choose import choose
from edgeinfer.types import KV_CHOICES, KvType

_DATA = Path(__file__).parents[1] / "data"
_MAX_TEXT_BYTES = 64 << 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", metavar="NAME|PATH", help="repeatable: files of one model, the best first (demo)"
    )
    parser.add_argument(
        "--tier", action="append", metavar="TIER", help="repeatable: quantize the first file to this tier"
    )
    parser.add_argument("--kv-type", action="append", choices=KV_CHOICES, help="repeatable: also with this K/V type")
    parser.add_argument(
        "--template",
        default="",
        metavar="FILE",
        help="a Jinja chat template for the text, or `chatml`; default: none",
    )
    parser.add_argument(
        "--backend", action="append", metavar="NAME", help="repeatable; each is compared with the first"
    )
    parser.add_argument("--layers", default="", metavar="TIER", help="restore each layer of this tier to Q8_0 in turn")
    parser.add_argument("--text", type=Path, metavar="FILE", help="UTF-8 text; default: an article of WikiText-2")
    parser.add_argument("--tokens", type=int, default=512, metavar="N", help="tokens of the text (512)")
    parser.add_argument("--json", action="store_true", help="one JSON object for each setting on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report, and its figures as FILE.json")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw FILE.png and FILE.svg (needs matplotlib)")


def run(args: argparse.Namespace) -> int:
    if args.tokens < 2:
        raise UsageError(f"--tokens must be at least 2; received {args.tokens}")
    check_outputs(args.out, plots=[args.plot])
    file = args.text or _DATA / "text.txt"
    text = read_text(file, title=f"the text `{file}`", most_bytes=_MAX_TEXT_BYTES, waiting=say)
    with tempfile.TemporaryDirectory() as folder:
        models = list(args.model or ["demo"])
        source = _file_of(models[0]) if args.tier or args.layers else None
        if source:
            models += [str(quantized(source, tier, Path(folder))) for tier in args.tier or ()]
        reference = Reference(text, args.tokens, args.template)
        results: list[Result] = []
        left_out: list[str] = []
        for setting in settings(models, args.kv_type or (), args.backend or [LLAMA_CPP.name]):
            why_not = refusal(setting) if results else ""
            if why_not:
                left_out.append(why_not)
                continue
            results.append(measure(setting, reference))
            _show(results[-1], as_json=args.json)
        layers = list(sweep(source, args.layers, Path(folder), reference)) if source and args.layers else []
    report = markdown(results, layers, left_out, args)
    if not args.json:
        print_report(report)
    if args.out:
        write_text(args.out, report)
        figures = {"results": [asdict(one) for one in results], "layers": [asdict(one) for one in layers]}
        write_text(args.out.with_suffix(".json"), json.dumps(figures, indent=1) + "\n")
    if args.plot:
        plot(results, args.plot)
    return 0


def settings(models: Sequence[str], kv_types: Sequence[KvType], backends: Sequence[str]) -> Iterator[Setting]:
    """Each file with K and V in 16 bits on each backend, and the first one with each K/V type."""
    exact: dict[str, KvType] = {name: "f32" if name == REFERENCE.name else "f16" for name in backends}
    first = backends[0]
    yield from (Setting(model, first, exact[first]) for model in models)
    yield from (Setting(models[0], first, kv_type) for kv_type in kv_types if kv_type != exact[first])
    yield from (Setting(model, name, exact[name]) for name in backends[1:] for model in models)


def refusal(setting: Setting) -> str:
    """Why this backend does not run this file on this machine; "" if it does."""
    try:
        choose(setting.request(), offline=True)
    except (NoPlanError, BackendError) as error:
        return f"{Path(setting.model).name} on {setting.backend}: {error}"
    return ""


def sweep(source: Path, tier: str, folder: Path, reference: Reference) -> Iterator[Layer]:
    """Quantizes every matrix to `tier`, then restores one layer, or the embedding and head, to 8 bits."""
    for name, types in layer_types(source):
        file = quantized(source, tier, folder, name=f"{tier}-{name}", types=types)
        found = measure(Setting(str(file), LLAMA_CPP.name, "f16"), reference, quality_only=True)
        file.unlink()
        yield Layer(name, found.n_bytes, found.kl, found.perplexity)


def _file_of(model: str) -> Path:
    """Raises UsageError for a folder, which llama.cpp's quantizer does not read."""
    path = path_of(choose(Request(model=model, backend=LLAMA_CPP.name), offline=True))
    if not path.is_file():
        raise UsageError(f"{model} is not a GGUF file", hint="--tier and --layers make copies of one")
    return path


def _show(result: Result, *, as_json: bool) -> None:
    if as_json:
        print_report(json.dumps(asdict(result)) + "\n")
