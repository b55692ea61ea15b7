"""How much memory this process holds, as its system counts it."""

from __future__ import annotations

import sys
import threading
from types import TracebackType


def pss_bytes() -> int:
    """Proportional set size on Linux; unique set size elsewhere (psutil)."""
    if sys.platform == "linux":
        with open("/proc/self/smaps_rollup", encoding="ascii") as lines:  # noqa: PTH123  # a hot path
            for line in lines:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        return 0
    import psutil

    return int(psutil.Process().memory_full_info().uss)


class Peak:
    """The largest `pss_bytes` inside a `with`, looked at every `interval_s`."""

    def __init__(self, interval_s: float = 0.02) -> None:
        self.n_bytes = 0
        self._interval_s = interval_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.n_bytes = max(self.n_bytes, pss_bytes())

    def _watch(self) -> None:
        while not self._done.wait(self._interval_s):
            self.n_bytes = max(self.n_bytes, pss_bytes())
