"""Outcomes of self-tests on disk: one small file for each model file, engine and setting. They may be deleted."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FORMAT: Final = 2  # raise it when the self-test or the way of drafting changes


@dataclass(frozen=True, slots=True)
class Subject:
    """What a verdict is about. `settings` are those of the engine that change which kernels run."""

    path: Path
    exit_layer: int
    settings: tuple[str, ...]
    versions: tuple[str, ...]


def folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgeinfer" / "self-tests"


def load(subject: Subject) -> str | None:
    """What was wrong ("" when nothing was); None when this was not tested, or the file has changed since."""
    try:
        stored = json.loads(_file(subject).read_text(encoding="utf-8"))
        return str(stored["wrong"]) if stored["about"] == _about(subject) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(subject: Subject, wrong: str) -> None:
    """A cache folder that cannot be written to costs a test at the next start, nothing else."""
    file = _file(subject)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False) as part:
            json.dump({"about": _about(subject), "path": str(subject.path.resolve()), "wrong": wrong}, part)
        os.replace(part.name, file)  # noqa: PTH105
    except OSError:
        return


def written(path: Path | None = None) -> list[Path]:
    """The files kept for the model at `path`; for every model with None."""
    wanted = None if path is None else str(path.resolve())
    found = []
    for file in sorted(folder().glob("*.json")):
        try:
            about = json.loads(file.read_text(encoding="utf-8"))
            if wanted is None or about.get("path") == wanted:
                found.append(file)
        except (OSError, ValueError, AttributeError):
            if wanted is None:
                found.append(file)
    return found


def remove(path: Path | None = None) -> int:
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


def _file(subject: Subject) -> Path:
    name = json.dumps([str(subject.path.resolve()), *_about(subject)])
    return folder() / f"{hashlib.sha256(name.encode()).hexdigest()[:24]}.json"
