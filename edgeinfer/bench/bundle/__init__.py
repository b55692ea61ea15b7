"""`edgeinfer bench bundle`: a phone bundle compared with the program of ExecuTorch's own exporter."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from edgeinfer.bench.bundle.measure import compare, kv_costs, opening_s, row_costs
from edgeinfer.bench.bundle.report import InRuntime, Measured, markdown
from edgeinfer.bench.bundle.runtime import Runtime, Session, drafted, memory_use, start
from edgeinfer.bench.bundle.worker import Worker
from edgeinfer.bench.report import check_outputs, print_report
from edgeinfer.errors import UsageError
from edgeinfer.formats.bundle import Bundle, check_bundle
from edgeinfer.named_files import write_text

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="FOLDER", help="made by `edgeinfer export`")
    parser.add_argument(
        "--stock", type=Path, metavar="FILE.pte", help="the same model, exported by ExecuTorch's `export_llm`"
    )
    parser.add_argument(
        "--runtime", type=Path, metavar="FILE", help="measure in the phone runtime: its program edgeinfer-run"
    )
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="interleaved runs of each (15)")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    """Raises UsageError for a number of runs that gives no spread, and what opening a bundle raises."""
    if args.runs < 2:
        raise UsageError(f"--runs must be at least 2; received {args.runs}")
    check_outputs(args.out)
    bundle = check_bundle(args.bundle)
    measured = _in_runtime(bundle, args) if args.runtime else _in_engine(bundle, args)
    text = json.dumps(asdict(measured)) if args.json else markdown(bundle, measured, _command(bundle, args), args.runs)
    if args.out:
        write_text(args.out, text)
    else:
        print_report(text + "\n")
    return 0


def _in_engine(bundle: Bundle, args: argparse.Namespace) -> Measured:
    def ours(n_threads: int) -> Worker:
        return Worker("ours", bundle.path, n_threads)

    opened_s = opening_s(bundle.path)
    compared = tuple(compare(ours, args.stock, args.runs)) if args.stock else ()
    kv = tuple(kv_costs(bundle.path, args.runs))
    return Measured(opened_s, compared, tuple(row_costs(bundle.path, args.runs)), kv)


def _in_runtime(bundle: Bundle, args: argparse.Namespace) -> Measured:
    with tempfile.TemporaryDirectory() as cache:
        runtime = Runtime(args.runtime.resolve(), bundle.path, Path(cache))

        def ours(n_threads: int) -> Session:
            return Session(runtime, n_threads)

        started = start(runtime, 1)
        compared = tuple(compare(ours, args.stock, args.runs)) if args.stock else ()
        found = InRuntime(started.first_token_s, tuple(drafted(runtime, 1)), memory_use(runtime))
        return Measured(started.opened_s, compared, runtime=found)


def _command(bundle: Bundle, args: argparse.Namespace) -> list[str]:
    command = ["edgeinfer", "bench", "bundle", bundle.path.name, "--runs", str(args.runs)]
    command += ["--stock", args.stock.name] if args.stock else []
    return command + (["--runtime", args.runtime.name] if args.runtime else [])
