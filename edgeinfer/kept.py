"""Small files that are kept between runs. Each is replaced whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["read_kept", "write_kept", "write_whole"]

MAX_BYTES = 1 << 20  # a larger file was not written by edgeinfer


def read_kept(path: Path | None) -> dict[str, Any]:
    """The JSON object at `path`; empty when it is missing, unreadable, damaged or anything else."""
    if path is None:
        return {}
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        value = json.loads(data) if len(data) <= MAX_BYTES else None
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def write_kept(path: Path | None, value: Mapping[str, object]) -> None:
    """Keep `value` as JSON. Without a home folder, or on a read-only or full disk, nothing is kept; that is not an
    error."""
    if path is None:
        return
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(value))


def write_whole(path: Path, text: str, *, check: Callable[[Path], object] = lambda _: None) -> None:
    """Replace the file at `path` by `text` in UTF-8; a crash or an error leaves the old one.

    `check` sees the new file before it takes the old one's place; what it raises prevents that. Raises OSError.
    """
    import tempfile  # `plan` must not pay for it

    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    part = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        check(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
