"""A phone bundle as a zip of its files, unpacked before use. An archive from a stranger is hostile until checked."""

from __future__ import annotations

import shutil
import stat
import tempfile
import zipfile
import zlib
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO, Final

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import check_bundle, check_files
from edgeinfer.formats.manifest import KNOWN_FILES, MANIFEST, MAX_MANIFEST_BYTES, Manifest, read_manifest
from edgeinfer.paths import cache_folder

__all__ = ["is_bundle_zip", "unpack", "unpacked"]

_HINT: Final = "zip the files of a bundle themselves: `cd FOLDER && zip -0 ../bundle.zip *`"
_COMPRESSIONS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LOCAL_HEADER_BYTES: Final = 30  # at least
_PIECE_BYTES: Final = 1 << 20


def is_bundle_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip" and path.is_file()


def unpacked(archive: Path) -> Path:
    """The folder of the bundle in `archive`, unpacked once into the cache folder.

    Raises ArtifactError for an archive that holds anything else, or that does not fit the disk.
    """
    cache = cache_folder()
    if cache is None:
        raise ArtifactError(f"there is no cache folder to unpack {archive} into", hint="unpack it, and name the folder")
    bundles = cache / "bundles"
    bundles.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=bundles) as scratch:
        whole = Path(scratch) / "bundle"
        whole.mkdir()
        with _opened(archive) as opened:
            manifest = _manifest(opened, whole, archive)
            folder = bundles / manifest.digest.removeprefix("sha256:")[:32]
            if not folder.exists():
                _unpack_files(opened, manifest, whole, archive)
                with suppress(OSError):  # another process was quicker
                    whole.rename(folder)
    check_bundle(folder)
    return folder


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the bundle in `archive` into the new `folder`, and compare every digest. Raises ArtifactError."""
    folder.mkdir()
    with _opened(archive) as opened:
        _unpack_files(opened, _manifest(opened, folder, archive), folder, archive)


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        opened = zipfile.ZipFile(archive)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise _refused(archive, f"cannot be read: {error}") from error
    try:
        if any(entry.header_offset < 0 for entry in opened.infolist()):
            raise _refused(archive, "cannot be read: a file begins before the archive")
        _check_entries(opened.infolist(), archive)
    except ArtifactError:
        opened.close()
        raise
    return opened


def _check_entries(entries: list[zipfile.ZipInfo], archive: Path) -> None:
    names = [entry.filename for entry in entries]
    if strangers := sorted(set(names) - KNOWN_FILES - {MANIFEST}):
        raise _refused(archive, f"holds {strangers[0][:60]!r}, which does not belong in a bundle")
    if len(names) != len(set(names)):
        raise _refused(archive, "holds a file twice")
    if MANIFEST not in names:
        raise _refused(archive, f"holds no {MANIFEST}")
    for entry in entries:
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise _refused(archive, f"holds {entry.filename} as something that is not a regular file")
        if entry.flag_bits & 1:
            raise _refused(archive, f"holds {entry.filename} encrypted")
        if entry.compress_type not in _COMPRESSIONS:
            raise _refused(archive, f"holds {entry.filename} in compression {entry.compress_type}")
    for one, next_one in pairwise(sorted(entries, key=lambda entry: entry.header_offset)):
        if one.header_offset + _LOCAL_HEADER_BYTES + one.compress_size > next_one.header_offset:
            raise _refused(archive, f"holds {one.filename} and {next_one.filename} in the same place")


def _manifest(opened: zipfile.ZipFile, folder: Path, archive: Path) -> Manifest:
    _copy(opened, MANIFEST, MAX_MANIFEST_BYTES, folder, archive)
    return read_manifest(folder / MANIFEST)


def _unpack_files(opened: zipfile.ZipFile, manifest: Manifest, folder: Path, archive: Path) -> None:
    """Each file up to the size that the manifest states. Raises ArtifactError for another size or digest."""
    total, free = sum(file.n_bytes for file in manifest.files.values()), shutil.disk_usage(folder).free
    if total > free:
        raise _refused(archive, f"unpacks to {total / 1e9:.1f} GB, and {free / 1e9:.1f} GB of the disk are free")
    for entry in opened.infolist():
        if entry.filename == MANIFEST:
            continue
        expected = manifest.files.get(entry.filename)
        if expected is None:
            raise _refused(archive, f"holds {entry.filename}, which its manifest does not name")
        if entry.file_size != expected.n_bytes:
            raise _refused(
                archive, f"holds {entry.filename} of {entry.file_size} bytes; its manifest says {expected.n_bytes}"
            )
        _copy(opened, entry.filename, expected.n_bytes, folder, archive)
    check_files(check_bundle(folder))


def _copy(opened: zipfile.ZipFile, name: str, max_bytes: int, folder: Path, archive: Path) -> None:
    try:
        with opened.open(name) as source, (folder / name).open("wb") as target:
            _copy_at_most(source, target, max_bytes)
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise _refused(archive, f"holds a damaged {name}: {error}") from error


def _copy_at_most(source: IO[bytes], target: IO[bytes], max_bytes: int) -> None:
    while piece := source.read(_PIECE_BYTES):
        if target.tell() + len(piece) > max_bytes:
            raise ValueError(f"it unpacks to more than {max_bytes} bytes")
        target.write(piece)


def _refused(archive: Path, what: str) -> ArtifactError:
    return ArtifactError(f"{archive} {' '.join(what.split())[:300]}", hint=_HINT)
