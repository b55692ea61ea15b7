"""Times of rows and taught drafts on this machine, by model and draft, kept between runs for later plans."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from edgeinfer.device.load import is_busy
from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder

__all__ = ["RowTimes", "keep_row_times", "read_row_times"]

_KEEP_S: Final = 30 * 24 * 3600.0  # engines and machines change
_MAX_FILES: Final = 100
_FILE: Final = "row-times.json"


@dataclass(frozen=True, slots=True)
class RowTimes:
    """Seconds."""

    verify_s: Mapping[int, float]  # by rows, from 1, which is a plain round
    draft_s: float
    n_ranked: int  # size of the draft's vocabulary in that run


def read_row_times(machine: str) -> Mapping[str, RowTimes]:
    """By `Artifact.key` and the draft's file. Damaged and old records are left out."""
    folder = cache_folder()
    stored = read_kept(folder / _FILE if folder else None).get(machine)
    found = {key: _read(value) for key, value in stored.items()} if isinstance(stored, dict) else {}
    return {key: times for key, times in found.items() if times is not None}


def keep_row_times(machine: str, key: str, times: RowTimes) -> None:
    """Keep the newest measurement of each key. Nothing is kept on a busy machine, where times are too long."""
    if is_busy():
        return
    folder = cache_folder()
    file = folder / _FILE if folder else None
    kept = read_kept(file)
    old = kept.get(machine)
    value = {
        "measured": time.time(),
        "verify_s": {str(rows): seconds for rows, seconds in times.verify_s.items()},
        "draft_s": times.draft_s,
        "n_ranked": times.n_ranked,
    }
    of_machine = {**(old if isinstance(old, dict) else {}), key: value}
    write_kept(file, {**kept, machine: dict(list(of_machine.items())[-_MAX_FILES:])})


def _read(value: Any) -> RowTimes | None:
    try:
        if not 0 <= time.time() - float(value["measured"]) < _KEEP_S:
            return None
        verify_s = {int(rows): float(seconds) for rows, seconds in value["verify_s"].items()}
        times = RowTimes(verify_s, float(value["draft_s"]), int(value["n_ranked"]))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    whole = times.draft_s > 0 and times.n_ranked > 0 and len(verify_s) > 1 and 1 in verify_s
    return times if whole and all(seconds > 0 for seconds in verify_s.values()) else None
