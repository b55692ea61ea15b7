"""Bring a file from the hub into the Hugging Face cache: resumed, and checked by length and digest before it gets its
name.

huggingface_hub (2.4) throws a cut download away and checks only its length, so the bytes are fetched here, into the
place where its own download then finds them and links them.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from edgeinfer.errors import ArtifactError, DownloadError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.paths import check_digest, check_relative
from edgeinfer.hub.cache import COMMIT, cache_dir, locate, repo_dir
from edgeinfer.hub.choose import folder_files
from edgeinfer.hub.disk import check_space, disk_errors
from edgeinfer.hub.remote import RemoteFile, RemoteRepo, endpoint, hub_errors, look_up, open_range

__all__ = ["Progress", "pull"]

Progress: TypeAlias = Callable[[int, int], None]
"""`progress(done_bytes, total_bytes)` of everything that this pull brings."""

ATTEMPTS = 4  # in a row without one new byte
PAUSE_S = 0.5  # doubles with each of them
_PAST_THE_END = 416  # HTTP: the range starts after the last byte
_ETAG = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Target:
    repo: str
    file: str
    commit: str
    etag: str  # the blob's name: sha256 of the content, or git's sha1
    n_bytes: int

    @property
    def blob(self) -> Path:
        return repo_dir(self.repo) / "blobs" / self.etag

    @property
    def part(self) -> Path:
        return _part(self.repo, self.etag)


def _part(repo: str, etag: str) -> Path:
    return repo_dir(repo) / "blobs" / f"{etag}.edgeinfer.incomplete"


def _drop_parts(repo: str) -> None:
    """Deletes the part file when the disk is full."""
    for part in repo_dir(repo).glob("blobs/*.edgeinfer.incomplete"):
        part.unlink()


def pull(
    repo: str, file: str = "", revision: str = "", *, sha256: str = "", progress: Progress = lambda *_: None
) -> Path:
    """Bring `file` of `repo` (for "", the whole model folder) at `revision` into the cache, and return its path.

    `sha256` is a digest that the caller expects in addition. A file in the cache is not fetched again.
    Raises ModelNotFoundError, DownloadError (the next call continues there) or ArtifactError (nothing stays).
    """
    cache_dir()  # without a folder for it, no request is made
    if sha256:
        check_digest(sha256)
    if COMMIT.fullmatch(revision) and file and (here := locate(repo, file, revision)):
        return here
    source = look_up(repo, revision)
    files = source.parts(check_relative(file)) if file else list(folder_files(source))
    if sha256 and file and files[0].sha256 != sha256:
        raise ArtifactError(f"{repo}/{file} has the digest {files[0].sha256}; {sha256} was expected")
    total = sum(wanted.n_bytes for wanted in files)
    _check_space(source, files)
    is_new = any(locate(repo, wanted.file, source.revision) is None for wanted in files)
    done, paths = 0, []
    for wanted in files:
        path = _bring(source, wanted, lambda n, before=done: progress(before + n, total))  # type: ignore[misc]
        paths.append(path)
        done += wanted.n_bytes
        progress(done, total)
    if is_new:
        _check(paths)
    _remember(repo, revision or "main", source.revision)
    return paths[0] if file else paths[0].parent


def _check_space(source: RemoteRepo, files: list[RemoteFile]) -> None:
    absent = [file for file in files if not locate(source.repo, file.file, source.revision)]
    parts = [_part(source.repo, file.sha256.removeprefix("sha256:")) for file in absent]
    missing = sum(file.n_bytes for file in absent) - sum(part.stat().st_size for part in parts if part.is_file())
    check_space(source.repo, missing)


def _bring(source: RemoteRepo, wanted: RemoteFile, progress: Callable[[int], None]) -> Path:
    """The path of the file in the snapshot. Fetches it if it is missing."""
    if here := locate(source.repo, wanted.file, source.revision):
        return here
    with disk_errors(lambda: _drop_parts(source.repo)), hub_errors(source.repo, wanted.file, source.revision):
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        target = _target(source, wanted)
        lock = cache_dir() / ".locks" / repo_dir(source.repo).name / f"{target.etag}.lock"
        for folder in (lock.parent, target.blob.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(lock):  # the same lock as huggingface_hub takes for this blob
            if not target.blob.exists():
                _fetch(target, progress)
        path = hf_hub_download(
            source.repo, wanted.file, revision=source.revision, cache_dir=cache_dir(), endpoint=endpoint()
        )
    return Path(path)


def _target(source: RemoteRepo, wanted: RemoteFile) -> _Target:
    """The hub's answer about the file, compared with its listing. The digest becomes a file name, so it is checked."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(source.repo, wanted.file, revision=source.revision, endpoint=endpoint())
    found = get_hf_file_metadata(url, endpoint=endpoint(), library_name="edgeinfer")
    etag = found.etag or ""
    if not _ETAG.fullmatch(etag) or found.commit_hash != source.revision:
        raise ArtifactError(
            f"{source.repo}/{wanted.file}: the hub gives the digest {etag[:80]!r} at {found.commit_hash!r:.60}"
        )
    if wanted.sha256 and f"sha256:{etag}" != wanted.sha256:
        raise ArtifactError(f"{source.repo}/{wanted.file}: listed as {wanted.sha256}, offered as sha256:{etag}")
    if found.size != wanted.n_bytes:
        raise ArtifactError(
            f"{source.repo}/{wanted.file}: listed with {wanted.n_bytes} bytes, offered with {found.size}"
        )
    return _Target(source.repo, wanted.file, source.revision, etag, wanted.n_bytes)


def _fetch(target: _Target, progress: Callable[[int], None]) -> None:
    """Fill the part file, from where an earlier pull stopped; once length and digest are right it becomes the blob."""
    failures = 0
    with target.part.open("ab") as part:
        while (have := part.tell()) < target.n_bytes:
            try:
                with hub_errors(target.repo, target.file, target.commit):
                    _stream(target, part, progress)
                cut = None
            except DownloadError as error:
                cut = error
            failures = 0 if part.tell() > have else failures + 1
            if failures >= ATTEMPTS:
                raise _gave_up(target, part.tell(), cut)
            if failures:
                time.sleep(PAUSE_S * 2 ** (failures - 1))
    if (found := _digest(target)) != target.etag:
        target.part.unlink()
        raise ArtifactError(
            f"{target.repo}/{target.file} has the digest {found}; the hub promised {target.etag}",
            hint="nothing was kept; try again, and if it stays wrong do not use this repository",
        )
    target.part.replace(target.blob)


def _stream(target: _Target, part: BinaryIO, progress: Callable[[int], None]) -> None:
    """Append one answer of the hub. It may end early; it may not be too long."""
    have = part.tell()
    with open_range(target.repo, target.file, target.commit, have) as response:
        if response.status_code == _PAST_THE_END:
            return
        if have and response.status_code != 206:
            part.truncate(0)  # the server does not resume
            part.seek(0)
        for piece in response.iter_bytes():
            if part.tell() + len(piece) > target.n_bytes:
                target.part.unlink(missing_ok=True)
                raise ArtifactError(
                    f"{target.repo}/{target.file} is longer than the {target.n_bytes} bytes that the hub announced",
                    hint="nothing was kept; try again later",
                )
            part.write(piece)
            progress(part.tell())
        part.flush()


def _gave_up(target: _Target, have: int, cut: DownloadError | None) -> Exception:
    where = f"{target.repo}/{target.file} stopped at {have} of {target.n_bytes} bytes"
    if cut is None:
        target.part.unlink(missing_ok=True)
        return ArtifactError(f"{where}: the hub has no more", hint="nothing was kept; try again later")
    return DownloadError(f"{where}: {cut}", hint="run the same command again: it resumes from there")


def _digest(target: _Target) -> str:
    git = len(target.etag) == 40
    state: Any = hashlib.sha1(usedforsecurity=False) if git else hashlib.sha256()
    if git:
        state.update(f"blob {target.n_bytes}\0".encode())
    with target.part.open("rb") as file:
        while piece := file.read(8 << 20):
            state.update(piece)
    return str(state.hexdigest())


def _check(paths: list[Path]) -> None:
    """Delete a file that is not a GGUF, so that `list` does not show it."""
    if paths[0].suffix != ".gguf":
        return
    try:
        check_artifact(paths[0])
    except ArtifactError:
        for path in paths:
            blob = path.resolve()
            path.unlink()
            blob.unlink(missing_ok=True)
        raise


def _remember(repo: str, revision: str, commit: str) -> None:
    """Note which commit a branch or tag stood for, as huggingface_hub does."""
    if revision != commit:
        ref = repo_dir(repo) / "refs" / check_relative(revision)
        with disk_errors(lambda: _drop_parts(repo)):
            ref.parent.mkdir(parents=True, exist_ok=True)
            ref.write_text(commit)
