"""`edgeinfer bench`: runs one of the measurements, each a module of `edgeinfer.bench`."""

from __future__ import annotations

import argparse
import importlib

from edgeinfer.cli.output import near
from edgeinfer.cli.parser import make_parser
from edgeinfer.errors import UsageError

HELP = "measure this machine and write a report"
USAGE = "bench MEASURE [--help] [...]"
EXAMPLES = """\
  edgeinfer bench speed --json                       prefill and decode, first token, memory, percent of the roofline
  edgeinfer bench speculation --model demo --quick   speculation on against off, prompt by prompt
  edgeinfer bench speed --help                       the options of a measurement
"""
MEASURES = {
    "speed": "prefill and decode tokens/s, first token, peak memory, percent of the memory roofline",
    "speculation": "speed with speculation on against off, per kind of prompt, with acceptance and intervals",
    "bundle": "a phone bundle compared with the program of ExecuTorch's own exporter",
    "serve": "the server: tokens/s, latency and gaps with 1 to 8 clients, compared with llama.cpp's server",
    "quality": "perplexity, KL, tasks, speed and memory of one model in several tiers, K/V types and backends",
    "kernels": "on a Mac: each Metal kernel compared with its plain MLX twin",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("measure", metavar="MEASURE", help=f"{', '.join(MEASURES)}")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="options of the measurement")


def run(args: argparse.Namespace) -> int:
    if args.measure not in MEASURES:
        raise UsageError(
            f"there is no measurement `{args.measure}`",
            hint=near(args.measure, MEASURES) or f"measurements: {', '.join(MEASURES)}",
        )
    module = importlib.import_module(f"edgeinfer.bench.{args.measure}")
    name = f"bench {args.measure}"
    parser = make_parser(name, MEASURES[args.measure], f"{name} [...]", f"  edgeinfer {name} --json")
    module.add_arguments(parser)
    code: int = module.run(parser.parse(args.rest))
    return code
