"""`python -m benchmarks cpu_kernels demo.Q4_0.gguf`: rows of one decode with edgeinfer's kernels and with ggml's.

Both take turns in one process, on one model and one context, and every number of rows is compared with single rows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeinfer.bench.report import head, table
from edgeinfer.device import DeviceProfile, detect
from edgeinfer.errors import BackendError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.shape import read_by_type
from edgeinfer.named_files import write_text

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.batch import Batch
    from edgeinfer.backends.gguf.llama import Context

__all__ = ["add_arguments", "run"]

ROWS: Final = (1, 2, 3, 4, 5, 6, 8, 12, 16)
PROMPTS: Final = (55, 256)  # rows of which only the last gives logits
REPEATED: Final = 5  # a first decode finds caches full of other data, and builds a graph


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, nargs="+", help="GGUF files")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--position", type=int, default=200, help="of the first row (200)")
    parser.add_argument("--runs", type=int, default=15, help="turns of each kernel (15)")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    from edgeinfer import backends

    device = detect()
    names = " ".join(path.name for path in args.source)
    command = ["python", "-m", "benchmarks", "cpu_kernels", *names.split(), "--runs", str(args.runs)]
    command += [] if args.position == 200 else ["--position", str(args.position)]
    text = head("Kernels for llama.cpp on CPUs", command, device, backends.get("gguf").probe().versions)
    for path in args.source:
        text += _section(path.name, _measure(path, args, device), args)
    sys.stdout.write(text)
    if args.out:
        write_text(args.out, text)
    return 0


@dataclass(frozen=True, slots=True)
class Measured:
    seconds: dict[int, list[float]]  # of one decode, by its rows
    n_exact: dict[int, int]  # rows that equal single rows bit for bit, by rows of the decode


def _measure(path: Path, args: argparse.Namespace, device: DeviceProfile) -> Mapping[str, Measured]:
    from edgeinfer.backends.gguf import llama
    from edgeinfer.backends.gguf.batch import Batch
    from edgeinfer.backends.gguf.kernels.library import install, remove

    types = frozenset(read_by_type(read_header(path)))
    missing = install(device, types)
    if not missing or any(missing.values()):
        raise BackendError(f"there is nothing to compare: {missing or sorted(types)}")
    kernels: Mapping[str, Callable[[], object]] = {
        "edgeinfer": lambda: install(device, types),
        "ggml": lambda: remove(types),
    }
    model = llama.load(path)
    start, slots = args.position, args.position + max(PROMPTS)
    options = llama.ContextOptions(slots, max(PROMPTS), n_threads=args.threads, n_outputs=max(ROWS), kv_type="q8_0/f16")
    context = llama.Context(model, options)
    try:
        batch = Batch(max(PROMPTS))
        for at in range(0, start, max(PROMPTS)):
            _rows(context, batch, at, min(max(PROMPTS), start - at), n_wanted=1)
        single = np.stack([_rows(context, batch, start + row, 1)[0] for row in range(max(ROWS))])
        measured = {name: Measured({n: [] for n in (*ROWS, *PROMPTS)}, {}) for name in kernels}
        for turn in range(args.runs):
            for name in sorted(kernels, reverse=bool(turn % 2)):
                kernels[name]()
                for n in (*ROWS, *PROMPTS):
                    seconds = []
                    for _ in range(REPEATED):
                        context.remove(start)
                        began = time.perf_counter()
                        rows = _rows(context, batch, start, n, n_wanted=1 if n in PROMPTS else n)
                        seconds.append(time.perf_counter() - began)
                    measured[name].seconds[n].append(statistics.median(seconds))
                    equal = sum(np.array_equal(row, one) for row, one in zip(rows, single, strict=False))
                    measured[name].n_exact[n] = equal
        return measured
    finally:
        context.close()
        model.close()


def _rows(
    context: Context, batch: Batch, position: int, n: int, *, n_wanted: int | None = None
) -> Sequence[np.ndarray]:
    n_wanted = n_wanted or n
    batch.fill(_tokens(position, n), position, n_wanted=n_wanted)
    context.decode(batch)
    return [context.logits(row).copy() for row in range(n - n_wanted, n)]


def _tokens(position: int, n: int) -> list[int]:
    return [3 + index * 7 % 200 for index in range(position, position + n)]


def _section(name: str, measured: Mapping[str, Measured], args: argparse.Namespace) -> str:
    ours, ggml = measured["edgeinfer"], measured["ggml"]

    def row(n: int) -> list[str]:
        medians = [statistics.median(one.seconds[n]) for one in (ours, ggml)]
        plain = [statistics.median(one.seconds[1]) for one in (ours, ggml)]
        ratios = sorted(b / a for a, b in zip(ours.seconds[n], ggml.seconds[n], strict=True))
        spread = f"{ratios[len(ratios) // 4]:.2f} to {ratios[3 * len(ratios) // 4]:.2f}"
        return [
            str(n),
            *(f"{1e3 * took:.2f}" for took in medians),
            *(f"{took / one:.2f}" for took, one in zip(medians, plain, strict=True)),
            f"{statistics.median(ratios):.2f} ({spread})",
            "" if n in PROMPTS else f"{ours.n_exact[n]}, {ggml.n_exact[n]}",
        ]

    titles = ("rows", "ms, edgeinfer", "ggml", "of one row", "ggml", "speed-up (middle half)", "equal to single rows")
    return (
        f"\n## {name}\n\n{args.threads} threads, position {args.position}, K in q8_0, V in f16; medians. "
        f"The last {len(PROMPTS)} lines are prompts.\n\n" + table(titles, [row(n) for n in (*ROWS, *PROMPTS)])
    )
