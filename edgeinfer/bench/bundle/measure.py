"""Times forwards of both programs in turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final, Protocol, TypeAlias

from edgeinfer.bench.bundle.programs import CHUNK
from edgeinfer.bench.bundle.worker import Worker
from edgeinfer.bench.statistics import Pair, Speedup, speedup
from edgeinfer.types import KvType

THREADS = (1, 2)
ROWS = (1, 2, 3, 4, 5, 8, 16)
KV_TYPES: Final[tuple[KvType, ...]] = ("f16", "q8_0")  # compared with float32
_ROWS_AT = 200
_DECODES = 8  # forwards of one token that are timed together


@dataclass(frozen=True, slots=True)
class Case:
    what: str
    n_tokens: int
    start: int
    times: int


_AT_1000 = Case("decode at position 1000", 1, 1000, _DECODES)
CASES = (
    Case("decode at position 200", 1, 200, _DECODES),
    _AT_1000,
    Case(f"prefill of {CHUNK} up to position 256", CHUNK, 128, 1),
    Case(f"prefill of {CHUNK} up to position 1024", CHUNK, 896, 1),
)


class Timed(Protocol):
    """A process that holds one program."""

    def seconds(self, n_tokens: int, start: int, *, times: int = 1) -> float:
        """Seconds of one forward of `n_tokens` at position `start`: the mean of `times` in a row."""


Opener: TypeAlias = Callable[[int], AbstractContextManager[Timed]]
"""Starts such a process with a number of threads."""


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


@dataclass(frozen=True, slots=True)
class KvCost:
    """The median of decoding at position 1000; `ratio` is the speed over that with float32 K/V."""

    n_threads: int
    kv_type: KvType
    seconds: float
    ratio: Speedup


def compare(open_ours: Opener, program: Path, runs: int) -> Iterator[Compared]:
    """Ours and the stock program in turn; which comes first alternates."""
    for n_threads in THREADS:
        with open_ours(n_threads) as ours, Worker("stock", program, n_threads) as stock:
            for case in CASES:
                pairs = _pairs(ours, stock, case, runs)
                yield Compared(
                    case.what,
                    n_threads,
                    median(pair.seconds for pair in pairs),
                    median(pair.plain_s for pair in pairs),
                    speedup(pairs),
                )


def _pairs(ours: Timed, stock: Timed, case: Case, runs: int) -> Sequence[Pair]:
    def timed(side: Timed) -> float:
        return side.seconds(case.n_tokens, case.start, times=case.times)

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


def kv_costs(bundle: Path, runs: int) -> Iterator[KvCost]:
    """Each K/V type beside float32 in turn; which comes first alternates."""
    for n_threads in THREADS:
        with Worker("ours", bundle, n_threads, "f32") as f32:
            for kv_type in KV_TYPES:
                with Worker("ours", bundle, n_threads, kv_type) as other:
                    pairs = _pairs(other, f32, _AT_1000, runs)
                yield KvCost(n_threads, kv_type, median(pair.seconds for pair in pairs), speedup(pairs))


def opening_s(bundle: Path) -> float:
    """Seconds to open `bundle` in a new process when its weights are packed already."""
    found = []
    for _ in range(4):
        with Worker("ours", bundle, 1) as worker:
            found.append(worker.opened_s)
    return median(found[1:])  # the first may pack them
