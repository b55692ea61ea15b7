"""What is timed, in which order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from edgeinfer.bench.bundle.programs import CHUNK
from edgeinfer.bench.bundle.worker import Worker
from edgeinfer.bench.statistics import Pair, Speedup, speedup

THREADS = (1, 2)
ROWS = (1, 2, 3, 4, 5, 8, 16)
_ROWS_AT = 200
_DECODES = 8  # forwards of one token that are timed together


@dataclass(frozen=True, slots=True)
class Case:
    what: str
    n_tokens: int
    start: int
    times: int


CASES = (
    Case("decode at position 200", 1, 200, _DECODES),
    Case("decode at position 1000", 1, 1000, _DECODES),
    Case(f"prefill of {CHUNK} up to position 256", CHUNK, 128, 1),
    Case(f"prefill of {CHUNK} up to position 1024", CHUNK, 896, 1),
)


@dataclass(frozen=True, slots=True)
class Compared:
    """Seconds of one forward, medians; `ratio` is our speed over that of the stock program."""

    what: str
    n_threads: int
    ours_s: float
    stock_s: float
    ratio: Speedup


@dataclass(frozen=True, slots=True)
class RowCost:
    """Medians of forwards that give the logits of `n_rows` tokens."""

    n_threads: int
    n_rows: int
    seconds: float


def compare(bundle: Path, program: Path, runs: int) -> Iterator[Compared]:
    """Ours and the stock program in turn; which comes first alternates."""
    for n_threads in THREADS:
        with Worker("ours", bundle, n_threads) as ours, Worker("stock", program, n_threads) as stock:
            for case in CASES:
                pairs = _pairs(ours, stock, case, runs)
                yield Compared(
                    case.what,
                    n_threads,
                    median(pair.seconds for pair in pairs),
                    median(pair.plain_s for pair in pairs),
                    speedup(pairs),
                )


def _pairs(ours: Worker, stock: Worker, case: Case, runs: int) -> Sequence[Pair]:
    def timed(worker: Worker) -> float:
        return worker.seconds(case.n_tokens, case.start, times=case.times)

    timed(ours), timed(stock)
    pairs = []
    for index in range(runs):
        if index % 2:
            stock_s = timed(stock)
            ours_s = timed(ours)
        else:
            ours_s = timed(ours)
            stock_s = timed(stock)
        pairs.append(Pair(case.n_tokens, stock_s, case.n_tokens, ours_s))
    return pairs


def row_costs(bundle: Path, runs: int) -> Iterator[RowCost]:
    for n_threads in THREADS:
        with Worker("ours", bundle, n_threads) as ours:
            seconds: dict[int, list[float]] = {n_rows: [] for n_rows in ROWS}
            for _ in range(runs):
                for n_rows in ROWS:
                    seconds[n_rows].append(ours.seconds(n_rows, _ROWS_AT, n_rows=n_rows, times=4))
            yield from (RowCost(n_threads, n_rows, median(found)) for n_rows, found in seconds.items())


def opening_s(bundle: Path) -> float:
    """Seconds to open `bundle` in a new process when its weights are packed already."""
    found = []
    for _ in range(4):
        with Worker("ours", bundle, 1) as worker:
            found.append(worker.opened_s)
    return median(found[1:])  # the first may pack them
