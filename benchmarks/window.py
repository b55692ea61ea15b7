"""`python -m benchmarks window`: the window on llama.cpp against the reference, past many evictions, for every KV type.

Both see the same random tokens. llama.cpp gets them in chunks of changing size, and half of the chunks end in wrong
tokens that are rolled back. The difference of logits is held against that of a run in which nothing is evicted:
what is left of it is the error of the KV type and the kernels, not of the window. The reference keeps K and V in the
same type; llama.cpp's rotation of quantized ones, which the reference does not have, is off here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeinfer.bench.report import head, table
from edgeinfer.named_files import write_text
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache
from edgeinfer.types import KvType, Tokens
from edgeinfer.window import WindowPolicy

Rows: TypeAlias = npt.NDArray[np.float32]  # [n, V]
Errors: TypeAlias = npt.NDArray[np.float64]  # [n]

SINKS, WINDOWS, BLOCKS = (4, 128), (256, 512, 1024, 1920), (64, 128, 256)
EVICTIONS = 5
SLACK = 1.5  # with other keys in sight the same rounding comes out otherwise; by no more than this
_ROWS = 16
_ROTATION_OFF = "LLAMA_ATTN_ROT_DISABLE"


@dataclass(frozen=True, slots=True)
class Engine:
    """K and V as llama.cpp keeps them."""

    kv_type: KvType
    flash_attention: bool

    def __str__(self) -> str:
        return f"{self.kv_type}{'' if self.flash_attention else ', no FA'}"


ENGINES = (
    Engine("f16", False),
    Engine("f16", True),
    Engine("q8_0/f16", True),
    Engine("q8_0", True),
    Engine("q4_0", True),
)


@dataclass(frozen=True, slots=True)
class Result:
    engine: str
    sink: int
    window: int
    block: int
    evictions: int
    error: float  # |logit difference| to the reference: the largest of each row, the 99th percentile of rows
    unevicted_error: float  # the same at the same positions, in a cache that never evicts
    wrong_error: float  # to a reference whose window is one block longer: what a mistake looks like
    largest_error: float  # over all rows

    @property
    def passed(self) -> bool:
        """Also that a wrong window would not have passed."""
        allowed = SLACK * self.unevicted_error
        return self.error <= allowed < self.wrong_error and self.evictions >= EVICTIONS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model",
        type=Path,
        required=True,
        metavar="FILE.gguf",
        help="a Llama or Qwen3 file that the reference can run",
    )
    parser.add_argument("--quick", action="store_true", help="windows of 256 only")
    parser.add_argument("--json", action="store_true", help="one object a line on stdout")
    parser.add_argument("--out", type=Path, metavar="FILE.md", help="write the report")


def run(args: argparse.Namespace) -> int:
    windows = WINDOWS[:1] if args.quick else WINDOWS
    policies = [(s, w, b) for w in windows for s in SINKS for b in BLOCKS if w >= 4 * b and w % b == 0]
    results = []
    for result in sweep(args.model, policies, ENGINES):
        results.append(result)
        line = json.dumps({**asdict(result), "passed": result.passed}) if args.json else _line(result)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
    if args.out:
        write_text(args.out, markdown(args.model, results, quick=args.quick))
    return 0 if all(result.passed for result in results) else 1


def sweep(path: Path, policies: Sequence[tuple[int, int, int]], engines: Sequence[Engine]) -> Iterator[Result]:
    """A result for each policy (sink, window, block) and engine."""
    for sink, window, block in policies:
        n = window + (EVICTIONS + 1) * block
        limit = n + block
        policy = WindowPolicy(window, sink, block, limit)
        tokens = _tokens(path, n)
        whole = WindowPolicy(-(-n // (4 * block)) * 4 * block, 0, block, n + 4 * block)
        longer = WindowPolicy(window + block, sink, block, limit + block)
        for kv_type, alike in groupby(engines, key=lambda engine: engine.kv_type):
            windowed, unevicted, wrong = (_reference(path, kv_type, one, tokens) for one in (policy, whole, longer))
            mistake = np.abs(wrong - windowed).max(axis=1)[window:]
            for engine in alike:
                errors = _errors(path, engine, policy, tokens, windowed, window)
                baseline = _errors(path, engine, whole, tokens, unevicted, window)
                yield Result(
                    engine=str(engine),
                    sink=sink,
                    window=window,
                    block=block,
                    evictions=_evictions(policy, n),
                    error=_high(errors),
                    unevicted_error=_high(baseline),
                    wrong_error=_high(mistake),
                    largest_error=float(errors.max()),
                )


def _high(errors: Errors) -> float:
    return float(np.percentile(errors, 99))


def _errors(path: Path, engine: Engine, policy: WindowPolicy, tokens: Tokens, expected: Rows, start: int) -> Errors:
    """The largest |logit difference| of each row that was seen from position `start` on."""
    from edgeinfer.backends.gguf import llama
    from edgeinfer.backends.gguf.model import EngineSettings
    from edgeinfer.backends.gguf.streams import Streams

    options = EngineSettings(1, engine.kv_type).options(policy)
    loaded = llama.load(path)
    try:
        with _unrotated():
            options = replace(options, flash_attention=engine.flash_attention)
            cache = Streams(loaded, options, n_together=None).new_cache(policy, 0)
        try:
            errors = _played(cache, tokens, expected)
            return np.array([error for position, error in errors if position >= start])
        finally:
            cache.close()
    finally:
        loaded.close()


@contextmanager
def _unrotated() -> Iterator[None]:
    """llama.cpp reads this when a context opens (llama-kv-cache.cpp)."""
    before = os.environ.get(_ROTATION_OFF)
    os.environ[_ROTATION_OFF] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_ROTATION_OFF]
        else:
            os.environ[_ROTATION_OFF] = before


def _played(cache: Cache, tokens: Tokens, expected: Rows) -> Iterator[tuple[int, float]]:
    """Rounds of 1 to 16 rows, half of them cut short, and pieces of prefill: (position, largest difference) of rows."""
    rng = np.random.default_rng(0)
    at = 0
    while at < len(tokens):
        room = min(cache.policy.room(at), len(tokens) - at)
        if rng.random() < 0.1:
            n = int(rng.integers(1, room + 1))
            row = prefill(cache, tokens[at : at + n]).numpy()
            yield at + n - 1, float(np.abs(row - expected[at + n - 1]).max())
            at += n
            continue
        n = int(rng.integers(1, min(_ROWS, room) + 1))
        kept = int(rng.integers(1, n + 1)) if rng.random() < 0.5 else n
        wrong = [(token + 7) % expected.shape[1] for token in tokens[at + kept : at + n]]
        step = cache.begin(n)
        rows = step.verify([*tokens[at : at + kept], *wrong])
        for index in range(kept):
            yield at + index, float(np.abs(rows[index].numpy() - expected[at + index]).max())
        step.commit(kept)
        at += kept


def _reference(path: Path, kv_type: KvType, policy: WindowPolicy, tokens: Tokens) -> Rows:
    """[n, V] float32: every row under the policy."""
    from edgeinfer.backends.reference import load_gguf

    model = load_gguf(path, kv_type=kv_type)
    try:
        cache = model.new_cache(policy)
        rows: list[Rows] = []
        while len(rows) < len(tokens):
            at = len(rows)
            n = min(policy.room(at), len(tokens) - at, 64)
            step = cache.begin(n)
            rows += [row.numpy().copy() for row in step.verify(tokens[at : at + n])]
            step.commit(n)
        return np.array(rows)
    finally:
        model.close()


def _tokens(path: Path, n: int) -> list[int]:
    from edgeinfer.formats.gguf_header import read_header
    from edgeinfer.formats.shape import shape_from_gguf

    n_vocab = shape_from_gguf(read_header(path)).n_vocab
    return [int(token) for token in np.random.default_rng(1).integers(3, n_vocab, n)]


def _evictions(policy: WindowPolicy, n: int) -> int:
    return len({policy.evicted(length).stop for length in range(n + 1)}) - 1


def _line(result: Result) -> str:
    verdict = "pass" if result.passed else "FAIL"
    return (
        f"{verdict} {result.engine}, window {result.window}, sink {result.sink}, block {result.block}: "
        f"{result.error:.3g} after {result.evictions} evictions, {result.unevicted_error:.3g} without"
    )


def markdown(path: Path, results: Sequence[Result], *, quick: bool) -> str:
    from edgeinfer.backends.gguf import BACKEND
    from edgeinfer.device import detect

    device = detect()
    command = ["python", "-m", "benchmarks", "window", "--model", path.name]
    command += [*(["--quick"] if quick else []), "--out", "docs/window.md"]
    rows: dict[tuple[int, int, int], list[Result]] = {}
    for result in results:
        rows.setdefault((result.window, result.sink, result.block), []).append(result)
    names = [result.engine for result in next(iter(rows.values()))]
    cells = [
        [
            ", ".join(map(str, key)),
            str(group[0].evictions),
            *(f"{'pass' if r.passed else 'FAIL'} {r.error:.3f} ({r.unevicted_error:.3f})" for r in group),
            f"{min(r.wrong_error for r in group):.1f}",
        ]
        for key, group in rows.items()
    ]
    return (
        head("The window on llama.cpp against the reference", command, device, BACKEND.probe().versions)
        + "\nEach cell: |logit difference| to the NumPy reference with K and V in the same type (and "
        "llama.cpp's rotation of quantized ones off, which the reference does not have): the largest of each row, and "
        "the 99th percentile of all rows from the first eviction on, with half of the rounds rolled back in part; in "
        f"brackets the same positions where nothing is evicted. A cell passes within {SLACK} times that, if a window "
        "that is one block too long would not: the least that one would differ by is the last column. "
        "`python -m tests.tiny_gguf tiny.gguf` writes the model.\n\n"
        + table(["window, sink, block", "evictions", *names, "one block too long"], cells)
        + f"\n{sum(r.passed for r in results)} of {len(results)} passed.\n"
    )
