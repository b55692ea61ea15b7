"""The decoding speed that each model file reached on this machine, kept between runs for later plans."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from edgeinfer.device.load import is_busy
from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder

__all__ = ["keep_reached", "read_reached"]

_KEEP_S: Final = 30 * 24 * 3600.0  # engines and machines change
_MAX_FILES: Final = 500


def read_reached(machine: str) -> Mapping[str, float]:
    """Tokens per second of plain decoding on `machine`, by `Artifact.key`."""
    return {key: per_s for key, (per_s, _) in _read(machine).items()}


def keep_reached(machine: str, key: str, tokens_per_s: float) -> None:
    """Keep it if it is the best of a month: other programs only make decoding slower.

    On a busy machine a first figure would be too low for the plans of quieter days, so it is not kept.
    """
    kept = _read(machine)
    best = kept.get(key, (0.0, 0.0))[0]
    if tokens_per_s <= best or (not best and is_busy()):
        return
    newest = sorted({**kept, key: (tokens_per_s, time.time())}.items(), key=lambda item: item[1][1])[-_MAX_FILES:]
    folder = cache_folder()
    file = folder / "reached-speeds.json" if folder else None
    write_kept(file, {**read_kept(file), machine: dict(newest)})


def _read(machine: str) -> dict[str, tuple[float, float]]:
    """Tokens per second and when they were measured; damaged and old records are left out."""
    folder = cache_folder()
    stored = read_kept(folder / "reached-speeds.json" if folder else None).get(machine)
    now, good = time.time(), {}
    for key, value in stored.items() if isinstance(stored, dict) else ():
        if not isinstance(value, list) or len(value) != 2 or not all(isinstance(one, int | float) for one in value):
            continue
        if 0 < value[0] < 1e6 and 0 <= now - value[1] < _KEEP_S:
            good[key] = (float(value[0]), float(value[1]))
    return good
