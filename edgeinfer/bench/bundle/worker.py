"""A process that times forwards of one program: one request per line on stdin, one answer per line on stdout."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, cast

from edgeinfer.bench.bundle.programs import CHUNK, POLICY, filler, ours, stock
from edgeinfer.errors import EngineError
from edgeinfer.types import KvType

Side = Literal["ours", "stock"]
_FILLED = POLICY.window - CHUNK  # positions that hold keys before anything is timed


class Worker:
    """Use as a context manager. `opened_s`: seconds that opening the program took."""

    def __init__(self, side: Side, path: Path, n_threads: int, kv_type: KvType | None = None) -> None:
        """`kv_type` is for our side; None: that of the bundle."""
        command = [
            sys.executable,
            "-m",
            "edgeinfer.bench.bundle.worker",
            side,
            str(path),
            str(n_threads),
            kv_type or "",
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.opened_s = self._answer()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def seconds(self, n_tokens: int, start: int, *, n_rows: int = 1, times: int = 1) -> float:
        """See measure.Timed. The logits of the last `n_rows` are computed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([n_tokens, start, n_rows, times]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, said = self._process.communicate()
            cause = (said.strip().splitlines() or ["no cause was printed"])[-1]
            raise EngineError(f"the measured process ended: {cause}")
        return float(line)


def main(side: str, path: Path, n_threads: int, kv_type: KvType | None) -> None:
    started = time.perf_counter()
    forward = ours(path, n_threads, kv_type) if side == "ours" else stock(path, n_threads)
    _say(time.perf_counter() - started)
    tokens = filler(POLICY.window)
    for at in range(0, _FILLED, CHUNK):
        forward(tokens[at : at + CHUNK], at, 1)
    for line in sys.stdin:
        n_tokens, start, n_rows, times = json.loads(line)
        begun = time.perf_counter()
        for _ in range(times):
            forward(tokens[start : start + n_tokens], start, n_rows)
        _say((time.perf_counter() - begun) / times)


def _say(seconds: float) -> None:
    sys.stdout.write(f"{seconds!r}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), cast(KvType, sys.argv[4]) or None)
