"""Memory bandwidth: from the table of chips, else measured once and kept in the cache folder."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from edgeinfer.device.devices import Devices

__all__ = ["bandwidth", "measure"]

_BUFFER_BYTES = 32 << 20  # beyond the last-level cache of the machines this is for
_MEASURE_S = 0.05


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
    per_s = measure(n_cores)
    _store(file, {**kept, machine: per_s})
    return per_s, "measured copy"


def measure(n_threads: int) -> int:
    """Bytes read and written per second by `n_threads` threads that copy at once; the best of about 50 ms."""
    from concurrent.futures import ThreadPoolExecutor

    import numpy as np

    n_threads = min(n_threads, 16)
    pairs = [(np.ones(_BUFFER_BYTES, np.uint8), np.full(_BUFFER_BYTES, 2, np.uint8)) for _ in range(n_threads)]
    best = 0.0
    with ThreadPoolExecutor(n_threads) as pool:
        start = time.perf_counter()
        while not best or time.perf_counter() - start < _MEASURE_S:
            before = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(pair[1], pair[0]), pairs))
            best = max(best, 2 * _BUFFER_BYTES * n_threads / (time.perf_counter() - before))
    return int(best)


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
