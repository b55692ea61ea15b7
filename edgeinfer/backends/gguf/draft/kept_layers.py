"""The GGUF files of drafts' layers, which take seconds to write: kept in the cache folder. Safe to delete."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.draft.layer_file import write_layer
from edgeinfer.backends.gguf.llama import LlamaModel
from edgeinfer.errors import EdgeInferError
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.formats.gguf_header import GgufHeader, read_header
from edgeinfer.paths import cache_folder

__all__ = ["load_layer", "remove_layers"]

_FORMAT: Final = 1  # raise it when `write_layer` writes something else
_MAX_KEPT: Final = 8  # files; the oldest goes first


def load_layer(draft: DraftFile, header: GgufHeader, path: Path) -> LlamaModel:
    """The layer of `draft`, for the checked model of the file at `path`. Written once, then loaded from the cache.

    Raises ArtifactError when llama.cpp does not load it.
    """
    kept = _file(draft, path)
    if kept is not None and kept.is_file():
        with suppress(EdgeInferError, OSError):  # damaged: written again
            kept.touch()
            return _load(kept)
    with TemporaryDirectory(prefix="edgeinfer-draft-", dir=_folder_to_write()) as folder:
        written = Path(folder) / "layer.gguf"
        write_layer(written, draft, header, path)
        loaded = _load(written)
        if kept is not None:
            with suppress(OSError):
                written.replace(kept)
                _drop_oldest(kept.parent)
    return loaded


def remove_layers(path: Path) -> None:
    """Delete what is kept for the model at `path`."""
    folder = _folder()
    for file in sorted(folder.glob(f"{_key(str(path.resolve()))}-*.gguf")) if folder else []:
        file.unlink(missing_ok=True)


def _load(file: Path) -> LlamaModel:
    read_header(file)  # llama.cpp must not see a damaged file
    return llama.load(file, mmap=False)


def _folder() -> Path | None:
    base = cache_folder()
    return base / "draft-layers" if base else None


def _folder_to_write() -> Path | None:
    """The cache's folder, so that a written file can be moved into place; None where it cannot be made."""
    folder = _folder()
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            return None
    return folder


def _file(draft: DraftFile, path: Path) -> Path | None:
    folder = _folder()
    if folder is None:
        return None
    facts = path.stat()
    digest = hashlib.sha256(draft.path.read_bytes()).hexdigest()
    about = _key(f"{_FORMAT} {digest} {len(draft.ranked_tokens)} {facts.st_size} {facts.st_mtime_ns}")
    return folder / f"{_key(str(path.resolve()))}-{about}.gguf"


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _drop_oldest(folder: Path) -> None:
    files = sorted(folder.glob("*.gguf"), key=lambda file: file.stat().st_mtime)
    for file in files[:-_MAX_KEPT]:
        file.unlink(missing_ok=True)
