"""Outcomes of self-tests on disk: one small file for each model file, engine and setting. They may be deleted."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder

_FORMAT: Final = 2  # raise it when the self-test or the way of drafting changes


@dataclass(frozen=True, slots=True)
class Subject:
    """What a verdict is about. `settings` are those of the engine that change which kernels run."""

    path: Path
    exit_layer: int
    settings: tuple[str, ...]
    versions: tuple[str, ...]


def folder() -> Path | None:
    base = cache_folder()
    return base / "self-tests" if base else None


def load(subject: Subject) -> str | None:
    """What was wrong ("" when nothing was); None when this was not tested, or the file has changed since."""
    try:
        stored, about = read_kept(_file(subject)), _about(subject)
    except OSError:
        return None
    return str(stored["wrong"]) if "wrong" in stored and stored.get("about") == about else None


def store(subject: Subject, wrong: str) -> None:
    """A cache folder that cannot be written to costs a test at the next start, nothing else."""
    with suppress(OSError):  # the model file may have gone
        path = str(subject.path.resolve())
        write_kept(_file(subject), {"about": _about(subject), "path": path, "wrong": wrong})


def written(path: Path) -> list[Path]:
    """The files kept for the model at `path`."""
    base, wanted = folder(), str(path.resolve())
    files = sorted(base.glob("*.json")) if base else []
    return [file for file in files if read_kept(file).get("path") == wanted]


def remove(path: Path) -> int:
    """Delete what `written` lists; the bytes that were freed."""
    freed = 0
    for file in written(path):
        freed += file.stat().st_size
        file.unlink()
    return freed


def _about(subject: Subject) -> list[str]:
    facts = subject.path.stat()
    return [
        str(_FORMAT),
        str(facts.st_size),
        str(facts.st_mtime_ns),
        str(subject.exit_layer),
        *subject.settings,
        *subject.versions,
    ]


def _file(subject: Subject) -> Path | None:
    base = folder()
    name = json.dumps([str(subject.path.resolve()), *_about(subject)])
    return base / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json" if base else None
