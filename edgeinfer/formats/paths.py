"""Checks names from strangers before they become paths, and refuses kinds of file that are never opened."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from edgeinfer.errors import ArtifactError
from edgeinfer.named_files import open_file

__all__ = ["check_digest", "check_relative", "is_pickle_name", "refuse_pickle", "safe_join", "sha256_of"]

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"})

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_FORBIDDEN = frozenset('\\:*?"<>|')
_PICKLE_HINT = "a pickle can run code; choose a .gguf file or a folder with .safetensors"
_CHUNK_BYTES = 8 << 20


def check_digest(digest: str) -> str:
    """`digest` when it is `sha256:` and 64 lower-case hex digits. Raises ArtifactError otherwise."""
    if not _DIGEST.fullmatch(digest):
        raise ArtifactError(f"not a digest: {digest[:80]!r}", hint="a digest is sha256: and 64 lower-case hex digits")
    return digest


def sha256_of(path: Path, progress: Callable[[int], None] = lambda _: None) -> str:
    """`sha256:<hex>` of the file; `progress(n_bytes)` after each piece read."""
    state = hashlib.sha256()
    with open_file(path) as file:
        while piece := file.read(_CHUNK_BYTES):
            state.update(piece)
            progress(len(piece))
    return f"sha256:{state.hexdigest()}"


def check_relative(name: str) -> str:
    """`name` if it is a relative path with forward slashes that stays inside its folder.

    Raises ArtifactError for an empty or absolute name, `.` and `..` parts, backslashes, drive letters, control
    characters, and names that are devices on some system.
    """
    if not all(_is_plain(part) for part in name.split("/")):
        raise ArtifactError(f"refused the file name {name[:120]!r}: it could lead out of its folder")
    return name


def safe_join(root: Path, name: str) -> Path:
    """`root/name` for a name that `check_relative` allows. Raises ArtifactError for a link that leads out of `root`."""
    path = root / check_relative(name)
    if not path.resolve().is_relative_to(root.resolve()):
        raise ArtifactError(f"refused the file name {name[:120]!r}: it leads out of {root}")
    return path


def _is_plain(part: str) -> bool:
    return (
        0 < len(part) < 256
        and part.isprintable()
        and part == part.strip()
        and not part.endswith(".")  # Windows drops a final dot; this also refuses `.` and `..`
        and not _FORBIDDEN & set(part)
        and not _DEVICE.fullmatch(part.split(".")[0].rstrip())
    )


def is_pickle_name(name: str) -> bool:
    return PurePosixPath(name.lower()).suffix in PICKLE_SUFFIXES


def refuse_pickle(path: Path) -> None:
    """Raise ArtifactError when the name or the first bytes of `path` are those of a pickle or of a zip around one."""
    if is_pickle_name(path.name):
        raise ArtifactError(f"{path} is refused: {path.suffix} files are pickles", hint=_PICKLE_HINT)
    with open_file(path) as file:
        head = file.read(4096)
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        raise ArtifactError(f"{path} is refused: it starts like a Python pickle", hint=_PICKLE_HINT)
    if head[:4] == b"PK\x03\x04":
        raise ArtifactError(f"{path} is refused: it is a zip archive, as torch.save writes", hint=_PICKLE_HINT)
