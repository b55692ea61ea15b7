"""The report of `edgeinfer bench speculation` with two chapters more: targets that are met or not, and the most that
drafting could have won on the same tokens."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from benchmarks.speculation.trace import Chain, trace_exit
from edgeinfer.bench.speculation.measure import add_arguments, command_of, measure_all, show
from edgeinfer.bench.speculation.records import Log, Subject
from edgeinfer.bench.speculation.report import rows_of
from edgeinfer.bench.speculation.sides import Sides
from edgeinfer.bench.speculation.text import text_of

__all__ = ["add_arguments", "run"]


def run(args: argparse.Namespace) -> int:
    """Raises what `edgeinfer bench speculation` raises."""
    from benchmarks.speculation.text import ceilings, targets

    log = measure_all(args)
    rows = rows_of(log)
    command = ["python", "-m", "benchmarks", *command_of(args)[2:]]
    chapters = [text_of(log, rows, command), *targets(log, rows), *ceilings(log, rows, traces(args, log))]
    show("\n".join(chapters), args.out)
    if args.plot:
        from edgeinfer.bench.speculation.plot import plot

        plot(rows, args.plot)
    return 0


def traces(args: argparse.Namespace, log: Log) -> Mapping[Subject, Mapping[int, tuple[Chain, ...]]]:
    """For each model, by prompt: what the exit would have drafted at each token of the plain greedy answer."""
    found = {}
    for name in args.model or ["demo"]:
        with Sides(name, ("early-exit",), args.draft_model) as sides:
            found[sides.subject] = trace_exit(sides, log)
    return found
