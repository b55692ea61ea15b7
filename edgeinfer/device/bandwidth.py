"""Memory bandwidth: from the table of chips, else measured once on a quiet machine and kept in the cache folder."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from edgeinfer.device.devices import Devices
from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder

__all__ = ["Copied", "bandwidth", "measure"]

_BUFFER_BYTES = 32 << 20  # beyond the last-level cache of the machines this is for
_MEASURE_S = 0.05
_QUIET_SHARE = 0.9  # threads that ran for less of their time were waiting for other programs


@dataclass(frozen=True, slots=True)
class Copied:
    """Bytes read and written per second, and for how much of that time the copying threads ran, 0 to 1."""

    per_s: int
    cpu_share: float


def bandwidth(devices: Devices, chip: str, total_bytes: int, n_cores: int) -> tuple[int, str]:
    """Bytes per second, and where the figure is from."""
    known = devices.chip_titled(chip, total_bytes)
    if known:
        return int(known.gb_per_s.value * 1e9), f"known chip: {known.gb_per_s.source}"
    folder = cache_folder()
    file = folder / "bandwidth.json" if folder else None
    machine = f"{chip}, {n_cores} cores, {total_bytes >> 30} GiB"
    kept = {name: per_s for name, per_s in read_kept(file).items() if _is_plausible(per_s)}
    if machine in kept:
        return kept[machine], "measured copy, cached"
    found = measure(n_cores)
    if found.cpu_share < _QUIET_SHARE:  # kept, it would choose too small a model for good
        return found.per_s, "measured copy; measured while the machine was busy"
    write_kept(file, {**kept, machine: found.per_s})
    return found.per_s, "measured copy"


def measure(n_threads: int) -> Copied:
    """What `n_threads` threads copy at once; the best round of about 50 ms."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    n_threads = min(n_threads, 16)
    pairs = [(np.ones(_BUFFER_BYTES, np.uint8), np.full(_BUFFER_BYTES, 2, np.uint8)) for _ in range(n_threads)]
    best = Copied(0, 0.0)

    def copy(n: int) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.thread_time()
        np.copyto(pairs[n][1], pairs[n][0])
        return time.perf_counter() - wall, time.thread_time() - cpu

    with ThreadPoolExecutor(n_threads) as pool:
        start = time.perf_counter()
        while not best.per_s or time.perf_counter() - start < _MEASURE_S:
            before = time.perf_counter()
            walls, cpus = zip(*pool.map(copy, range(n_threads)), strict=True)
            per_s = int(2 * _BUFFER_BYTES * n_threads / (time.perf_counter() - before))
            # Windows counts a thread's time in steps of 16 ms, longer than a round
            share = 1.0 if sys.platform == "win32" else sum(cpus) / sum(walls)
            best = max(best, Copied(per_s, share), key=lambda one: one.per_s)
    return best


def _is_plausible(per_s: object) -> bool:
    return isinstance(per_s, int) and 10**8 < per_s < 10**14
