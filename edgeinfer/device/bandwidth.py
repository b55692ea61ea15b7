"""Memory bandwidth: from the table of chips, else measured until it settles and kept in the cache folder.

Other programs can only make reading slower. So the best figure is kept and measured again in later runs, until several
quiet measurements find nothing faster; after that, once a day.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

from edgeinfer.device.devices import Devices
from edgeinfer.device.load import is_busy
from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Kept", "Read", "bandwidth", "measure", "settle"]

# Of all threads together. It passes most last-level caches, and a first start must stay below what the plan counts.
_READ_BYTES: Final = 64 << 20
_READ_SHARE: Final = 1 / 16  # of the memory that this process may still take, at most
_MEASURE_S: Final = 0.05
_QUIET_SHARE: Final = 0.9  # threads that ran for a smaller share of the time were waiting for other programs
_FIRST_RUN: Final = 4  # measurements when none is stored, because the first plan needs a true figure too
_SETTLED: Final = 3  # quiet measurements that found nothing faster
_FASTER: Final = 1.05  # more than noise
_RECHECK_S: Final = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Read:
    """Bytes read per second, and whether other programs left the machine alone meanwhile."""

    per_s: int
    quiet: bool


@dataclass(frozen=True, slots=True)
class Kept:
    """The best bandwidth seen, in bytes per second, and how sure it is."""

    best_per_s: int
    n_confirmed: int  # quiet measurements since then that found nothing faster
    measured: float  # when the last quiet one was made, in seconds since 1970

    def is_settled(self, now: float) -> bool:
        return self.n_confirmed >= _SETTLED and 0 <= now - self.measured < _RECHECK_S


def bandwidth(devices: Devices, chip: str, total_bytes: int, n_cores: int, *, usable_bytes: int) -> tuple[int, str]:
    """Bytes per second, and the source of the figure. `usable_bytes` is what this process may still take."""
    known = devices.chip_titled(chip, total_bytes)
    if known:
        return int(known.gb_per_s.value * 1e9), f"known chip: {known.gb_per_s.source}"
    folder = cache_folder()
    file = folder / "memory-bandwidth.json" if folder else None
    most = max(1 << 20, int(min(_READ_BYTES, usable_bytes * _READ_SHARE)))
    n_bytes = 1 << most.bit_length() - 1  # a power of two, so that few sizes are kept
    machine = f"{chip}, {n_cores} cores, {total_bytes >> 30} GiB, {n_bytes >> 20} MiB read"
    stored = read_kept(file)
    kept = _parsed(stored.get(machine))
    now = time.time()
    if kept is None or not kept.is_settled(now):
        kept = _measured(kept, lambda: measure(n_cores, n_bytes), now)
        write_kept(file, {**stored, machine: asdict(kept)})
    if kept.n_confirmed >= _SETTLED:
        return kept.best_per_s, "measured read"
    return kept.best_per_s, "measured read, best so far; measured again in the next runs, until it settles"


def _measured(kept: Kept | None, read: Callable[[], Read], now: float) -> Kept:
    for _ in range(1 if kept else _FIRST_RUN):
        kept = settle(kept, read(), now)
    assert kept is not None
    return kept


def settle(kept: Kept | None, found: Read, now: float) -> Kept:
    """What to keep after one more measurement. A disturbed measurement may raise the best figure, but confirms
    nothing."""
    if kept is None or found.per_s > _FASTER * kept.best_per_s:
        return Kept(found.per_s, 0, now)
    if not found.quiet:
        return kept
    return Kept(max(kept.best_per_s, found.per_s), min(kept.n_confirmed + 1, _SETTLED), now)


def measure(n_threads: int, n_bytes: int) -> Read:
    """What `n_threads` threads read together of `n_bytes`, in the middle one of the rounds of about 50 ms.

    The best round is often wrong: on a virtual machine one round in a hundred is twice as fast as all others.
    """
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    n_threads = min(n_threads, 16)
    parts = [np.ones(n_bytes // n_threads // 8, np.int64) for _ in range(n_threads)]
    rounds: list[tuple[int, float]] = []

    def read(part: NDArray[np.int64]) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.thread_time()
        part.max()
        return time.perf_counter() - wall, time.thread_time() - cpu

    with ThreadPoolExecutor(n_threads) as pool:
        start = time.perf_counter()
        while not rounds or time.perf_counter() - start < _MEASURE_S:
            before = time.perf_counter()
            walls, cpus = zip(*pool.map(read, parts), strict=True)
            per_s = int(sum(part.nbytes for part in parts) / (time.perf_counter() - before))
            # Windows counts a thread's time in steps of 16 ms, longer than a round
            share = 1.0 if sys.platform == "win32" else sum(cpus) / sum(walls)
            rounds.append((per_s, share))
    per_s, share = sorted(rounds)[len(rounds) // 2]
    return Read(per_s, quiet=share >= _QUIET_SHARE and not is_busy())


def _parsed(stored: object) -> Kept | None:
    if not isinstance(stored, Mapping):
        return None
    best, confirmed, measured = (stored.get(name) for name in ("best_per_s", "n_confirmed", "measured"))
    if not isinstance(best, int) or not 10**8 < best < 10**14:
        return None
    if not isinstance(confirmed, int) or not isinstance(measured, int | float):
        return None
    return Kept(best, confirmed, measured)
