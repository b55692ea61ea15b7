"""Which way to exit early on llama.cpp: `python -m edgeinfer.bench.exit_ways MODEL.gguf ... [--out FILE.md]`.

Each way decodes the same tokens in one process, in turn; every time is compared with the whole model's right
before or after. Memory and loading are measured in a process for each way.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

from edgeinfer.backends.gguf.llama import ContextOptions
from edgeinfer.backends.gguf.model import is_repacked
from edgeinfer.backends.gguf.probe import library_versions
from edgeinfer.bench import report
from edgeinfer.bench.exit_rivals import N_BATCH, Way, ways
from edgeinfer.bench.memory_use import pss_bytes
from edgeinfer.device import detect
from edgeinfer.formats.gguf_header import read_header

N_PROMPT: Final = 200  # tokens in the cache while measuring
ROWS: Final = (2, 4, 8)
N_LATE: Final = max(ROWS)
TITLES: Final = {
    "whole": "the whole model, no early exit",
    "lanes": "in place, a context each",
    "one context": "in place, one context",
    "split": "front and back, common split",
    "headless": "headless front and back, head",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one way, relative to a plain token of the whole model; `round_of[r]`: r rows, every one of them kept."""

    way: str
    plain: float
    draft: float
    verify_of: Mapping[int, float]
    round_of: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Footprint:
    way: str
    load_s: float
    pss_bytes: int
    disk_bytes: int


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="edgeinfer.bench.exit_ways", description=__doc__)
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL.gguf", help="files that name an exit layer")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="threads of the engine (2)")
    parser.add_argument("--seconds", type=float, default=20.0, metavar="S", help="time for each model (20)")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: where others share the machine")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")
    parser.add_argument("--note", default="", metavar="TEXT", help="a sentence for the head of the report")
    parser.add_argument("--alone", choices=list(TITLES), help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.alone:
        print(json.dumps(asdict(_alone(args.models[0], args.alone, args.threads))))  # noqa: T201
        return 0
    parts = []
    for path in args.models:
        costs, plain_s = measure(path, args.threads, args.seconds, _CLOCKS[args.clock])
        text = _section(path, plain_s, costs, [_child(path, name, args.threads) for name in TITLES])
        print(text, flush=True)  # noqa: T201
        parts.append(text)
        if args.out is not None:
            report.write(args.out, "\n".join([_head(args), *parts]))
    return 0


_CLOCKS: Final[Mapping[str, Callable[[], float]]] = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(path: Path, n_threads: int, seconds: float, clock: Callable[[], float]) -> tuple[list[Cost], float]:
    """Costs of each way, and the seconds of a plain token of the whole model."""
    turns: dict[str, list[tuple[dict[str, float], float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        opening = _ways(path, n_threads, Path(folder))
        rivals = [name for name in opening if name != "whole"]
        for name in rivals:
            opened = {one: opening[one]() for one in ("whole", name)}
            try:
                _take_turns(opened, turns, seconds / len(rivals), clock)
            finally:
                for way in opened.values():
                    way.close()

    def ratio(name: str, what: str) -> float:
        return median(times.get(what, 0.0) / plain for times, plain in turns[name])

    costs = [
        Cost(
            way=name,
            plain=ratio(name, "plain"),
            draft=ratio(name, "draft"),
            verify_of={rows: ratio(name, f"verify {rows}") for rows in ROWS},
            round_of={rows: ratio(name, f"round {rows}") for rows in ROWS},
        )
        for name in opening
    ]
    return costs, median(times["plain"] for times, _ in turns["whole"])


def _take_turns(
    opened: Mapping[str, Way],
    turns: dict[str, list[tuple[dict[str, float], float]]],
    seconds: float,
    clock: Callable[[], float],
) -> None:
    """Adds, for each of two ways, the times of its verbs and a plain token of the whole model next to them."""
    rng, began, tokens = random.Random(0), time.perf_counter(), _tokens()
    for way in opened.values():
        way.prefill(tokens[:N_PROMPT])
        _one_turn(way, tokens[N_PROMPT:], clock)  # warms up
    n = 0
    while n < 3 or time.perf_counter() - began < seconds:
        pair = {one: _one_turn(opened[one], tokens[N_PROMPT:], clock) for one in rng.sample(list(opened), 2)}
        for one, times in pair.items():
            turns[one].append((times, pair["whole"]["plain"]))
        n += 1


def _one_turn(way: Way, late: Sequence[int], clock: Callable[[], float]) -> dict[str, float]:
    times: dict[str, list[float]] = defaultdict(list)

    def timed(what: str, act: Callable[[], None]) -> float:
        began = clock()
        act()
        way.logits(0)[0]
        times[what].append(clock() - began)
        return times[what][-1]

    for at in range(5):
        timed("plain" if at else "cold", lambda at=at: way.plain(late[at], N_PROMPT + at))  # type: ignore[misc]
    way.forget(N_PROMPT)
    for rows in ROWS:
        for _ in range(2):
            spent = 0.0
            for row in range(rows if way.drafts else 0):
                head = row < rows - 1
                spent += timed(
                    "draft" if head else "front",
                    lambda row=row, head=head: way.draft(late[row], N_PROMPT + row, row, head=head),  # type: ignore[misc]
                )
            spent += timed(f"verify {rows}", lambda rows=rows: way.verify(late[:rows], N_PROMPT))  # type: ignore[misc]
            way.forget(N_PROMPT)
            times[f"round {rows}"].append(spent)
    return {what: median(found) for what, found in times.items()}


def _alone(path: Path, name: str, n_threads: int) -> Footprint:
    """What one way takes in a process that does nothing else."""
    tokens = _tokens()
    with tempfile.TemporaryDirectory() as folder:
        # the parts are written before the clock runs: only the first start of a model would pay for it
        open_way = _ways(path, n_threads, Path(folder))[name]
        open_way().close()
        before, began = pss_bytes(), time.perf_counter()
        way = open_way()
        load_s = time.perf_counter() - began
        way.prefill(tokens[:N_PROMPT])
        if name != "whole":
            for row in range(4):
                way.draft(tokens[N_PROMPT + row], N_PROMPT + row, row, head=True)
        way.verify(tokens[N_PROMPT : N_PROMPT + 4], N_PROMPT)
        found = Footprint(name, load_s, pss_bytes() - before, way.disk_bytes)
        way.close()
    return found


def _child(path: Path, name: str, n_threads: int) -> Footprint:
    command = [sys.executable, "-m", __spec__.name, str(path), "--alone", name, "--threads", str(n_threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Footprint(**json.loads(done.stdout.splitlines()[-1]))


def _ways(path: Path, n_threads: int, folder: Path) -> dict[str, Callable[[], Way]]:
    header = read_header(path)
    options = ContextOptions(slots=1024, n_batch=N_BATCH, n_threads=n_threads, n_outputs=16, kv_type="q8_0/f16")
    exit_layer = int(str(header.metadata["edgeinfer.exit_layer"]))
    return ways(path, options, mmap=not is_repacked(header), exit_layer=exit_layer, folder=folder, tokens=_tokens())


def _tokens() -> list[int]:
    rng = random.Random(0)
    return [rng.randrange(3, 4096) for _ in range(N_PROMPT + N_LATE)]


def _section(path: Path, plain_s: float, costs: Sequence[Cost], footprints: Sequence[Footprint]) -> str:
    timing = report.table(
        ["way", "plain", "draft", *(f"verify {rows}" for rows in ROWS), *(f"round of {rows}" for rows in ROWS)],
        [
            [
                TITLES[cost.way],
                f"{cost.plain:.3f}",
                f"{cost.draft:.3f}" if cost.draft else "",
                *(f"{cost.verify_of[rows]:.2f}" for rows in ROWS),
                *(f"{cost.round_of[rows]:.2f} ({rows / cost.round_of[rows]:.2f}x)" for rows in ROWS),
            ]
            for cost in costs
        ],
    )
    memory = report.table(
        ["way", "memory, MB", "written, MB", "opened in, s"],
        [
            [TITLES[one.way], f"{one.pss_bytes / 1e6:.1f}", f"{one.disk_bytes / 1e6:.1f}", f"{one.load_s:.2f}"]
            for one in footprints
        ],
    )
    return f"## {path.name}\n\nA plain token of the whole model: {plain_s * 1e3:.2f} ms.\n\n{timing}\n{memory}"


def _head(args: argparse.Namespace) -> str:
    flags = f"--threads {args.threads} --clock {args.clock} --seconds {args.seconds:g}"
    title = report.head("Early exit on llama.cpp: the ways compared", ["..."], detect(), library_versions())
    used = f"`python -m {__spec__.name} {flags} {' '.join(path.name for path in args.models)}`"
    meaning = _MEANING.format(clock=args.clock, threads=args.threads)
    return title.replace("`edgeinfer ...`", used) + f"\n{meaning}" + (f"\n{args.note}\n" if args.note else "")


_MEANING: Final = """\
Times are medians of ratios to a plain token of the whole model right before or after ({clock} time, {threads} threads,
K in q8_0, V in f16, position 200). A draft runs the early layers, norm and head for one token; a round of R rows drafts
R - 1 tokens, runs the early layers for the last of them, and verifies all; in brackets, the speed-up when every draft
is kept. Memory is what the process holds more than before (PSS), with a cache of 1024 positions; "written" is what the
way needs on disk beside the model.

* *In place, a context each* is what edgeinfer does: three contexts over one memory of keys and values. The plain one
  is llama.cpp untouched. Drafting and verifying contexts run parts of their graphs, from the same weights. Nothing is
  written, nothing is in memory twice, and speculation can be left and taken up again at any token.
* *In place, one context*: the same, but drafts and verifications take turns in one graph, which llama.cpp builds anew
  whenever the number of rows changes.
* *Front and back, common split*: two models that share a part of a split file (embedding, norm, head).
* *Headless front and back, head*: three models, none of which holds anything twice. The lookup of embeddings is not
  in its times.

The last two decode plainly in parts as well ("plain"), or hold the whole model besides.

Chosen is the first, for what it does not cost: plain decoding stays llama.cpp's own, nothing is written, and a few
megabytes are all it takes, where the split ways write a file of the model's size and decode plainly in parts. It is
not the quickest round everywhere. How far equal code lies apart is seen in "plain", which is the same in both ways in
place; what a table shows beyond that, as the split ways do in some rounds of 4 and 8, is the price. Of the two in
place, a context each keeps its graphs while plain rounds, drafts and verifications take turns, as in an answer.
"""

if __name__ == "__main__":
    sys.exit(main())
