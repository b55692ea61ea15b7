"""Results of self-tests on disk: one small file for each model file, engine and setting. Safe to delete."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder

_FORMAT: Final = 2  # raise it when the self-test or the drafting code changes


@dataclass(frozen=True, slots=True)
class TestedModel:
    """What a result is about. `settings` are the engine settings that change which kernels run."""

    path: Path
    exit_layer: int
    settings: tuple[str, ...]
    versions: tuple[str, ...]


def folder() -> Path | None:
    base = cache_folder()
    return base / "self-tests" if base else None


def load(tested: TestedModel) -> str | None:
    """What was wrong ("": nothing). None if this was not tested, or the file has changed since."""
    try:
        stored, about = read_kept(_file(tested)), _about(tested)
    except OSError:
        return None
    return str(stored["wrong"]) if "wrong" in stored and stored.get("about") == about else None


def store(tested: TestedModel, wrong: str) -> None:
    """When the cache folder cannot be written, the test runs again at the next start."""
    with suppress(OSError):  # the model file may have gone
        path = str(tested.path.resolve())
        write_kept(_file(tested), {"about": _about(tested), "path": path, "wrong": wrong})


def written(path: Path) -> list[Path]:
    """The files kept for the model at `path`."""
    base, wanted = folder(), str(path.resolve())
    files = sorted(base.glob("*.json")) if base else []
    return [file for file in files if read_kept(file).get("path") == wanted]


def remove(path: Path) -> int:
    """Delete what `written` lists. Returns the bytes freed."""
    freed = 0
    for file in written(path):
        freed += file.stat().st_size
        file.unlink()
    return freed


def _about(tested: TestedModel) -> list[str]:
    facts = tested.path.stat()
    return [
        str(_FORMAT),
        str(facts.st_size),
        str(facts.st_mtime_ns),
        str(tested.exit_layer),
        *tested.settings,
        *tested.versions,
    ]


def _file(tested: TestedModel) -> Path | None:
    base = folder()
    name = json.dumps([str(tested.path.resolve()), *_about(tested)])
    return base / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json" if base else None
