"""`python -m benchmarks expected_speed`: the plan's decode speed against what this machine reaches, model by model.

    taskset -c 0 python -m benchmarks expected_speed --model demo

Each token of a short answer is timed. One thread is timed by the processor time that it takes, which leaves out when
others ran; so on a machine that others use too, measure on one core. Several threads are timed by the clock.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgeinfer.bench.opened import OpenedModel, add_format_arguments, format_words, opened, text_tokens
from edgeinfer.bench.report import head, table
from edgeinfer.decode.loop import Decoder
from edgeinfer.named_files import write_text
from edgeinfer.plan.fit import expected_tokens_per_s
from edgeinfer.plan.types import Request
from edgeinfer.types import GREEDY, Prompt

__all__ = ["Row", "add_arguments", "run"]

ALLOWED = 0.20
_PROMPT = "The lighthouse keeper wrote down what the sea had brought that day, and what it had taken away again."


@dataclass(frozen=True, slots=True)
class Row:
    """Speeds in tokens per second."""

    model: str
    tier: str
    tensors: str
    n_threads: int
    expected: float
    measured: float
    on_the_clock: float  # in the hour of the measurement

    @property
    def error(self) -> float:
        return self.expected / self.measured - 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", metavar="NAME|PATH", help="repeatable; default: demo")
    add_format_arguments(parser)
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="default: as many as are fastest now")
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="tokens that are timed (200)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="times that each is opened, in turn (3)")
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    """0 when every expected speed is within a fifth of what was measured."""
    models = args.model or ["demo"]
    rows = [row for _ in range(args.rounds) for row in (measure(model, args) for model in models)]
    best = [max((row for row in rows[at :: len(models)]), key=lambda row: row.measured) for at in range(len(models))]
    if args.json:
        sys.stdout.write(json.dumps([{**asdict(row), "error": row.error} for row in best], indent=1) + "\n")
    else:
        sys.stdout.write(report(best, args))
    if args.out:
        write_text(args.out, report(best, args))
    return int(max(abs(row.error) for row in best) > ALLOWED)


def measure(model: str, args: argparse.Namespace) -> Row:
    request = Request(model=model, backend="gguf", kv_type=args.kv_type, speculation="off", force=True)
    with opened(request, n_threads=args.threads) as subject:
        plan, n_threads = subject.plan, subject.model.n_threads
        times = _token_times(subject, args.tokens, args.template)
        return Row(
            model=plan.model.title,
            tier=plan.artifact.tier,
            tensors=", ".join(f"{name} {n_bytes / 1e6:.0f} MB" for name, n_bytes in plan.artifact.tensors),
            n_threads=n_threads,
            expected=expected_tokens_per_s(replace(plan.device, n_cores=n_threads), plan.model.shape, plan.artifact),
            measured=1 / statistics.median(cpu_s if n_threads == 1 else wall_s for wall_s, cpu_s in times),
            on_the_clock=1 / statistics.median(wall_s for wall_s, _ in times),
        )


def _token_times(subject: OpenedModel, n_tokens: int, template: str) -> list[tuple[float, float]]:
    """Seconds on the clock and of the processor, of each token but the first two, which touch all memory."""
    decoder = Decoder(subject.model, subject.plan.window)
    try:
        prompt = Prompt(tuple(text_tokens(subject.model.tokenizer, _PROMPT, template)))
        times, before = [], (0.0, 0.0)
        for _ in decoder.stream(prompt, GREEDY, max_tokens=n_tokens + 2, stop_tokens=frozenset()):
            now = (time.perf_counter(), time.process_time())
            times.append((now[0] - before[0], now[1] - before[1]))
            before = now
        return times[2:]
    finally:
        decoder.close()


def report(rows: Sequence[Row], args: argparse.Namespace) -> str:
    from edgeinfer import backends
    from edgeinfer.device import detect

    on_one_core = ["taskset", "-c", "0"] if rows[0].n_threads == 1 else []
    command = [*on_one_core, "python", "-m", "benchmarks", "expected_speed"]
    for model in args.model or ["demo"]:
        command += ["--model", Path(model).name]
    command += [*format_words(args), *(["--threads", str(args.threads)] if args.threads else [])]
    worst = max(abs(row.error) for row in rows)
    cells = [
        [row.model, row.tier, row.tensors, str(row.n_threads), f"{row.expected:.0f}", f"{row.measured:.0f}",
         f"{row.on_the_clock:.0f}", f"{row.error:+.0%}"]
        for row in rows
    ]  # fmt: skip
    return (
        head("Expected decode speed against this machine", command, detect(), backends.get("gguf").probe().versions)
        + f"\nPlain decoding, tokens/s, {args.tokens} tokens after a short prompt, the best of {args.rounds} rounds. "
        "Medians. One thread is measured by the processor time of a token, because others used this machine too.\n\n"
        f"Largest error {worst:.0%} (allowed: {ALLOWED:.0%}).\n\n"
        + table(
            ["model", "tier", "read a token", "threads", "expected", "measured", "on the clock", "error"],
            cells,
        )
    )
