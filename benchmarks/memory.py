"""The plan's estimate against measured peak memory, on Linux.

    python -m benchmarks memory --model demo --model smollm2-135m > docs/memory.md

Each row is a new process that opens the model as `edgeinfer chat` does, reads a prompt and answers. Its memory, and
that of its children, is looked at every 20 ms.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from edgeinfer import backends
from edgeinfer.bench.opened import add_format_arguments, format_words
from edgeinfer.bench.report import head
from edgeinfer.decode.drafters import speculation_modes
from edgeinfer.errors import EdgeInferError, UsageError

__all__ = ["Peak", "Row", "add_arguments", "measure", "report", "run"]

CONTEXTS = (512, 1024, 2048)
MODES = ("auto", "off")  # as in chat, and the least
ALLOWED = 0.08
_LOOK_EVERY_S = 0.02
_ANSWER = 40  # pieces: every drafter has its turn
_PROMPT = "Repeat this. " + "The lazy dog sleeps. " * 60  # longer than one prefill forward, which touches every buffer


@dataclass(frozen=True, slots=True)
class Peak:
    """Highest sums over a process and its children, in bytes.

    `pss` shares a page with every process on the machine that maps it; `alone` is what it would be with no others
    about: its anonymous pages, and the pages of files counted once and whole.
    """

    pss: int = 0
    alone: int = 0


@dataclass(frozen=True, slots=True)
class Row:
    model: str
    tier: str
    backend: str
    speculation: str
    context: int
    weight_bytes: int
    kv_bytes: int
    workspace_bytes: int
    peak: Peak

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes

    @property
    def error(self) -> float:
        """Relative error of the estimate; above 0, the plan asked for too much."""
        return self.total_bytes / self.peak.alone - 1


def measure(model: str, context: int, backend: str, speculation: str, more: Sequence[str] = ()) -> Row:
    """Run one answer in a new process and watch it. Raises EdgeInferError when that process fails."""
    command = [sys.executable, "-m", "benchmarks.memory", "--answer"]
    arguments = ["--model", model, "--context", str(context), "--backend", backend, "--speculation", speculation, *more]
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, text=True) as process:
        peak = Peak()
        while process.poll() is None:
            now = look(process.pid)
            peak = Peak(max(peak.pss, now.pss), max(peak.alone, now.alone))
            time.sleep(_LOOK_EVERY_S)
        said = process.stdout.read() if process.stdout else ""
    if process.returncode != 0:
        raise EdgeInferError(f"the measured process for {model} ended with {process.returncode}")
    return replace(Row(**json.loads(said), peak=Peak()), peak=peak)


def look(pid: int) -> Peak:
    """What `pid` and its children take now. Zero for a process that has ended."""
    pss = anonymous = files = 0
    for process in _family(pid):
        kib = _rollup(process)
        pss += kib.get("Pss", 0)
        anonymous += kib.get("Pss_Anon", 0)
        files = max(files, kib.get("Rss", 0) - kib.get("Anonymous", 0))  # children map what their parent maps
    return Peak(pss * 1024, (anonymous + files) * 1024)


def _family(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:
            continue
        for child in found:
            yield from _family(int(child))


def _rollup(pid: int) -> dict[str, int]:
    """KiB by name, from `smaps_rollup` (proc(5))."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


def answer(model: str, context: int, args: argparse.Namespace, speculation: str) -> int:
    """In the measured process: open, answer, and say what the plan was. K and V are written when a cache is made."""
    import edgeinfer

    if speculation not in speculation_modes():
        raise UsageError(f"--speculation must be one of {', '.join(speculation_modes())}; received {speculation}")
    request = edgeinfer.Request(
        model=model, context=context, backend=args.backend, kv_type=args.kv_type, speculation=speculation
    )
    with edgeinfer.load(request, template=args.template) as loaded:
        plan = loaded.plan
        for n, _ in enumerate(loaded.stream(_PROMPT)):
            if n >= _ANSWER:
                break
    row = Row(
        model=plan.model.title,
        tier=plan.artifact.tier,
        backend=plan.backend,
        speculation=", ".join(plan.speculation.drafters) or "off",
        context=plan.window.slots,
        weight_bytes=plan.estimate.weight_bytes,
        kv_bytes=plan.estimate.kv_bytes,
        workspace_bytes=plan.estimate.workspace_bytes,
        peak=Peak(),
    )
    sys.stdout.write(json.dumps({key: value for key, value in asdict(row).items() if key != "peak"}))
    return 0


def report(rows: Sequence[Row], args: argparse.Namespace) -> str:
    from edgeinfer.device import detect

    worst = max(abs(row.error) for row in rows)
    versions = backends.get(rows[0].backend).probe().versions
    command = ["python", "-m", "benchmarks", "memory"]
    for model in args.model or ["demo"]:
        command += ["--model", Path(model).name]
    for context in dict.fromkeys(row.context for row in rows):
        command += ["--context", str(context)]
    for mode in args.speculation or MODES:
        command += ["--speculation", mode]
    command += format_words(args)
    lines = [
        head("Estimated against measured memory", command, detect(), versions),
        "MB of a process that opens the model as `edgeinfer chat` does, reads a prompt and answers, with its children.",
        "`PSS` shares pages with other processes of the machine; `alone` counts them once and whole, as the plan does.",
        "",
        f"Largest difference from `alone`: {worst:.1%} (allowed: {ALLOWED:.0%}).",
        "",
        "| model | tier | backend | drafts | context | weights | K/V | workspace | estimate | PSS | alone | error |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.model} | {row.tier} | {row.backend} | {row.speculation} | {row.context} | {_mb(row.weight_bytes)} "
        f"| {_mb(row.kv_bytes)} | {_mb(row.workspace_bytes)} | {_mb(row.total_bytes)} | {_mb(row.peak.pss)} "
        f"| {_mb(row.peak.alone)} | {row.error:+.1%} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", action="append", metavar="NAME|PATH", help="repeatable; default: demo")
    parser.add_argument("--context", action="append", type=int, metavar="N", help="repeatable; default: 512 1024 2048")
    parser.add_argument("--backend", default="gguf")
    parser.add_argument("--speculation", action="append", metavar="MODE", help="repeatable; default: auto off")
    add_format_arguments(parser)
    parser.add_argument("--json", action="store_true", help="the rows as JSON")
    parser.add_argument("--answer", action="store_true", help=argparse.SUPPRESS)  # be the measured process


def run(args: argparse.Namespace) -> int:
    """0 when every estimate is within 8 % of what was measured. Raises UsageError where there is no /proc."""
    models, contexts, modes = args.model or ["demo"], args.context or CONTEXTS, args.speculation or MODES
    if args.answer:
        return answer(models[0], contexts[0], args, modes[0])
    if not Path("/proc/self/smaps_rollup").exists():
        raise UsageError("memory is measured by /proc/PID/smaps_rollup, which Linux has", hint="run it on Linux")
    asked = product(models, modes, contexts)
    more = ["--kv-type", args.kv_type] if args.kv_type else []
    more += ["--template", args.template] if args.template else []
    rows = [measure(model, context, args.backend, mode, more) for model, mode, context in asked]
    if args.json:
        sys.stdout.write(json.dumps([{**asdict(row), "error": row.error} for row in rows], indent=1) + "\n")
    else:
        sys.stdout.write(report(rows, args))
    return int(max(abs(row.error) for row in rows) > ALLOWED)


if __name__ == "__main__":
    _parser = argparse.ArgumentParser(prog="python -m benchmarks.memory")
    add_arguments(_parser)
    sys.exit(run(_parser.parse_args()))
