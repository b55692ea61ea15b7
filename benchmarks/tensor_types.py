"""`python -m benchmarks tensor_types demo.F16.gguf`: what llama.cpp's kernels for each tensor type give here.

The file is quantized to one type after the other. One thread decodes with each copy, and is timed by the processor time
that it takes. Measured are bytes of weights per second, for `core_gb_per_s_of` in devices.toml, and how many rows of a
batch equal single rows bit for bit, for `backends/gguf/facts.py`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeinfer.bench.report import head, table
from edgeinfer.named_files import write_text

__all__ = ["Row", "add_arguments", "run"]

TYPES = (
    *("F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q5_1", "Q5_0"),
    *("Q4_K_M", "Q4_1", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K"),
)
LAYER_S = 50e-6  # of a layer besides its matrices, as in devices.toml
N_TOKENS = 60
N_CONTEXT = 40
MAX_ROWS = 16


@dataclass(frozen=True, slots=True)
class Row:
    tensor_type: str
    n_bytes: int
    bytes_per_s: float  # of one core
    exact_rows: int  # 1: no batch equals single rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", type=Path, help="an F16 file whose widths are multiples of 256")
    parser.add_argument("--type", action="append", metavar="TIER", help=f"repeatable; default: {' '.join(TYPES)}")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(args.source, tier, Path(folder)) for tier in args.type or TYPES]
    text = report(rows, args)
    sys.stdout.write(text)
    if args.out:
        write_text(args.out, text)
    return 0


def measure(source: Path, tier: str, folder: Path) -> Row:
    from edgeinfer.backends.gguf import llama
    from edgeinfer.backends.gguf.model import is_repacked
    from edgeinfer.backends.gguf.quantize import quantize
    from edgeinfer.formats.gguf_header import read_header
    from edgeinfer.formats.shape import read_by_type

    file = source if tier == "F16" else folder / f"{tier}.gguf"
    if file != source:
        quantize(source, file, tier, pure=True)
    header = read_header(file)
    (tensor_type, n_bytes), *_ = read_by_type(header).items()
    model = llama.load(file, mmap=not is_repacked(header))
    options = llama.ContextOptions(512, MAX_ROWS, n_threads=1, n_outputs=MAX_ROWS, kv_type="q8_0/f16")
    context = llama.Context(model, options)
    try:
        seconds = _token_s(context) - model.n_layers * LAYER_S
        return Row(tensor_type, n_bytes, n_bytes / seconds, _exact_rows(context))
    finally:
        context.close()
        model.close()
        if file != source:
            file.unlink()


def _tokens(n: int) -> list[int]:
    return [3 + index * 7 % 200 for index in range(n)]


def _token_s(context: object) -> float:
    from edgeinfer.backends.gguf.batch import Batch
    from edgeinfer.backends.gguf.llama import Context

    assert isinstance(context, Context)
    batch, times = Batch(MAX_ROWS), []
    for position in range(N_TOKENS):
        batch.fill(_tokens(position + 1)[-1:], position, n_wanted=1)
        began = time.process_time()
        context.decode(batch)
        times.append(time.process_time() - began)
    return sorted(times)[N_TOKENS // 4]


def _exact_rows(context: object) -> int:
    """The most rows up to which every smaller batch equals single rows too."""
    from edgeinfer.backends.gguf.batch import Batch
    from edgeinfer.backends.gguf.llama import Context

    assert isinstance(context, Context)
    batch, tokens = Batch(MAX_ROWS), _tokens(N_CONTEXT + MAX_ROWS)
    context.remove(N_CONTEXT)
    singly = []
    for position in range(N_CONTEXT, N_CONTEXT + MAX_ROWS):
        batch.fill(tokens[position : position + 1], position, n_wanted=1)
        context.decode(batch)
        singly.append(context.logits(0).copy())
    for n in range(2, MAX_ROWS + 1):
        context.remove(N_CONTEXT)
        batch.fill(tokens[N_CONTEXT : N_CONTEXT + n], N_CONTEXT, n_wanted=n)
        context.decode(batch)
        if not all(np.array_equal(context.logits(row), singly[row]) for row in range(n)):
            return n - 1
    return MAX_ROWS


def report(rows: Sequence[Row], args: argparse.Namespace) -> str:
    from edgeinfer import backends
    from edgeinfer.device import detect

    command = ["python", "-m", "benchmarks", "tensor_types", args.source.name]
    cells = [
        [row.tensor_type, f"{row.n_bytes / 1e6:.0f}", f"{row.bytes_per_s / 1e9:.1f}", str(row.exact_rows)]
        for row in rows
    ]
    return (
        head("What a tensor type costs", command, detect(), backends.get("gguf").probe().versions)
        + f"\nOne thread of llama.cpp, by its processor time less {LAYER_S * 1e6:.0f} us a layer. Exact rows: the most "
        f"rows of a batch that equal single rows bit for bit (at most {MAX_ROWS}).\n\n"
        + table(["type", "MB a token", "GB/s of a core", "exact rows"], cells)
    )
