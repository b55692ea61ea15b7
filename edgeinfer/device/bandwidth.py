"""Memory bandwidth: from the table of chips, else measured once on a quiet machine and kept in the cache folder."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgeinfer.device.devices import Devices

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
    file = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeinfer" / "bandwidth.json"
    machine = f"{chip}, {n_cores} cores, {total_bytes >> 30} GiB"
    kept = _load(file)
    if machine in kept:
        return kept[machine], "measured copy, cached"
    found = measure(n_cores)
    if found.cpu_share < _QUIET_SHARE:  # kept, it would choose too small a model for good
        return found.per_s, "measured copy; measured while the machine was busy"
    _store(file, {**kept, machine: found.per_s})
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


def _load(file: Path) -> dict[str, int]:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    good = kept.items() if isinstance(kept, dict) else ()
    return {key: value for key, value in good if isinstance(value, int) and 10**8 < value < 10**14}


def _store(file: Path, kept: dict[str, int]) -> None:
    import tempfile  # only a first run pays for it

    with suppress(OSError):  # a cache that cannot be written costs 50 ms next time, no more
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump(kept, out)
        Path(name).replace(file)
