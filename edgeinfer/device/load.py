"""Whether other programs use this machine now, which would make measurements too slow."""

from __future__ import annotations

import os

__all__ = ["is_busy"]

_BUSY_SHARE = 0.5  # runnable processes per CPU, averaged over the last minute


def is_busy() -> bool:
    """False where the system counts no load average, as on Windows."""
    try:
        waiting = os.getloadavg()[0]
    except (OSError, AttributeError):
        return False
    return waiting > _BUSY_SHARE * (os.cpu_count() or 1)
