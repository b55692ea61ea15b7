"""Memory of this process, as the operating system counts it."""

from __future__ import annotations

import sys


def pss_bytes() -> int:
    """Proportional set size on Linux; unique set size elsewhere (psutil)."""
    if sys.platform == "linux":
        return _rollup("Pss:")
    import psutil

    return int(psutil.Process().memory_full_info().uss)


def rss_bytes() -> int:
    """Resident set size."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _rollup(key: str) -> int:
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:  # noqa: PTH123  # a hot path
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))
