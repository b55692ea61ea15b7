"""`edgeinfer bench`: a door to the measurements, each a module of `edgeinfer.bench`."""

from __future__ import annotations

import argparse
import importlib

from edgeinfer.cli.output import near
from edgeinfer.cli.parser import make_parser
from edgeinfer.errors import UsageError

HELP = "measure this machine and write down what was found"
USAGE = "bench MEASURE [--help] [...]"
EXAMPLES = """\
  edgeinfer bench speculation --model demo --quick   speculation on against off, prompt by prompt
  edgeinfer bench window --help                      what a measurement takes
"""
MEASURES = {
    "speculation": "speed with speculation on against off",
    "window": "perplexity and speed past the window",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    listed = "; ".join(f"{name}: {what}" for name, what in MEASURES.items())
    parser.add_argument("measure", metavar="MEASURE", help=listed)
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="what the measurement takes")


def run(args: argparse.Namespace) -> int:
    if args.measure not in MEASURES:
        raise UsageError(
            f"there is no measurement `{args.measure}`",
            hint=near(args.measure, MEASURES) or f"measurements: {', '.join(MEASURES)}",
        )
    module = importlib.import_module(f"edgeinfer.bench.{args.measure}")
    name = f"bench {args.measure}"
    parser = make_parser(name, module.HELP, f"{name} [...]", f"  edgeinfer {name} --json")
    module.add_arguments(parser)
    code: int = module.run(parser.parse(args.rest))
    return code
