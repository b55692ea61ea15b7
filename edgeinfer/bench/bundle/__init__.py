"""`edgeinfer bench bundle`: a phone bundle beside what ExecuTorch's own exporter makes of the same model."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgeinfer.bench.bundle.measure import Compared, RowCost, compare, opening_s, row_costs
from edgeinfer.bench.report import check_outputs, head, print_report, table
from edgeinfer.errors import UsageError
from edgeinfer.formats.bundle import Bundle, check_bundle
from edgeinfer.named_files import write_text

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", type=Path, metavar="FOLDER", help="made by `edgeinfer export`")
    parser.add_argument("--stock", type=Path, metavar="FILE.pte", help="the same model by ExecuTorch's `export_llm`")
    parser.add_argument("--runs", type=int, default=15, metavar="N", help="interleaved runs of each (15)")
    parser.add_argument("--json", action="store_true", help="one object on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    """Raises UsageError for a number of runs that gives no spread, and what opening a bundle raises."""
    if args.runs < 2:
        raise UsageError(f"--runs must be at least 2; received {args.runs}")
    check_outputs(args.out)
    bundle = check_bundle(args.bundle)
    opened_s = opening_s(args.bundle)
    compared = list(compare(args.bundle, args.stock, args.runs)) if args.stock else []
    costs = list(row_costs(args.bundle, args.runs))
    text = markdown(bundle, opened_s, compared, costs, args)
    if args.json:
        found = {"compared": [asdict(one) for one in compared], "rows": [asdict(one) for one in costs]}
        text = json.dumps({"opened_s": opened_s, **found})
    if args.out:
        write_text(args.out, text)
    else:
        print_report(text + "\n")
    return 0


def markdown(
    bundle: Bundle, opened_s: float, compared: Sequence[Compared], costs: Sequence[RowCost], args: argparse.Namespace
) -> str:
    from edgeinfer.device import detect

    manifest = bundle.manifest
    command = ["edgeinfer", "bench", "bundle", bundle.path.name, "--runs", str(args.runs)]
    command += ["--stock", args.stock.name] if args.stock else []
    text = head(f"Speed of the bundle {manifest.name}, {manifest.tier}", command, detect(), manifest.exporter)
    text += f"\nOpened in {opened_s:.2f} s from packed weights.\n"
    if compared:
        text += (
            f"\nMilliseconds of one forward, medians of {args.runs} pairs, one in each program in turn. The ratio is "
            "our speed over that of the stock program, with its 95 % interval.\n\n"
            + table(["", "threads", "ours", "stock", "ratio"], [_row(one) for one in compared])
        )
    one_row = {cost.n_threads: cost.seconds for cost in costs if cost.n_rows == 1}
    rows = []
    for cost in costs:
        share = cost.seconds / one_row[cost.n_threads]
        rows.append([str(cost.n_threads), str(cost.n_rows), f"{cost.seconds * 1e3:.2f}", f"{share:.2f}"])
    return text + "\nRows of one forward at position 200:\n\n" + table(["threads", "rows", "ms", "of one row"], rows)


def _row(one: Compared) -> list[str]:
    ratio = one.ratio
    return [
        one.what,
        str(one.n_threads),
        f"{one.ours_s * 1e3:.2f}",
        f"{one.stock_s * 1e3:.2f}",
        f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]",
    ]
