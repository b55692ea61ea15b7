"""A phone bundle: one folder with an exported program, its tokenizer and a manifest. Checked before an engine sees it.

manifest.json        what the program is and needs, and the size and digest of every other file: manifest.py
model.pte            the ExecuTorch program
tokenizer.json       as the `tokenizers` library writes it
chat_template.jinja  absent where the model has none
draft_tokens.bin     the tokens of a taught draft, where the program has one
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.manifest import (
    DRAFT_TOKENS,
    HINT,
    MANIFEST,
    PROGRAM,
    TOKENIZER,
    BundleFile,
    Manifest,
    read_manifest,
)
from edgeinfer.formats.paths import sha256_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Bundle", "check_bundle", "check_files", "file_of", "is_bundle", "ranked_tokens", "write_ranked_tokens"]

_NEEDED = frozenset({PROGRAM, TOKENIZER})


@dataclass(frozen=True, slots=True)
class Bundle:
    path: Path
    manifest: Manifest

    @property
    def program(self) -> Path:
        return self.path / PROGRAM


def is_bundle(path: Path) -> bool:
    return path.is_dir() and (path / MANIFEST).exists() and (path / PROGRAM).exists()


def check_bundle(folder: Path) -> Bundle:
    """Read the manifest and compare the files with it by name and size. Raises ArtifactError.

    `check_files` compares the digests too, which reads every byte.
    """
    if folder.is_file():
        raise ArtifactError(f"{folder} is a file; a bundle is a folder", hint="unpack an archive first")
    path = folder / MANIFEST
    if path.is_symlink():
        raise ArtifactError(f"{path} is a link", hint=HINT)
    manifest = read_manifest(path)
    _check_names_and_sizes(folder, manifest)
    return Bundle(folder, manifest)


def check_files(bundle: Bundle) -> None:
    """Compare every file's digest with the manifest. Raises ArtifactError."""
    for name, expected in bundle.manifest.files.items():
        found = sha256_of(bundle.path / name)
        if found != expected.sha256:
            raise ArtifactError(f"{bundle.path / name} was changed: {found}, not {expected.sha256}", hint=HINT)


def ranked_tokens(bundle: Bundle) -> npt.NDArray[np.int32]:
    """The ids [n_ranked] among which the taught draft chooses. Raises ArtifactError for ids that the model lacks."""
    import numpy as np  # a plan checks bundles and does without it

    path = bundle.path / DRAFT_TOKENS
    ids = np.fromfile(path, "<i4").astype(np.int32)
    if ids.min() < 0 or ids.max() >= bundle.manifest.n_vocab or len(np.unique(ids)) != len(ids):
        raise ArtifactError(f"{path} must name each token once, from 0 to {bundle.manifest.n_vocab - 1}", hint=HINT)
    return ids


def write_ranked_tokens(folder: Path, ids: npt.NDArray[np.int32]) -> None:
    (folder / DRAFT_TOKENS).write_bytes(ids.astype("<i4").tobytes())


def file_of(path: Path) -> BundleFile:
    return BundleFile(path.stat().st_size, sha256_of(path))


def _check_names_and_sizes(folder: Path, manifest: Manifest) -> None:
    if missing := sorted(_NEEDED - set(manifest.files)):
        raise ArtifactError(f"{folder}: the manifest does not name {missing[0]}", hint=HINT)
    found = {path.name for path in folder.iterdir()}
    if strangers := sorted(found - set(manifest.files) - {MANIFEST}):
        raise ArtifactError(f"{folder} holds {strangers[0][:60]!r}, which its manifest does not name", hint=HINT)
    for name, expected in sorted(manifest.files.items()):
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ArtifactError(f"{path} is missing, or is not a regular file", hint=HINT)
        if path.stat().st_size != expected.n_bytes:
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes; its manifest says {expected.n_bytes}", hint=HINT
            )
