"""The Hugging Face cache on disk. Standard library only, so that reading it costs no import.

Layout (huggingface_hub 2, docs "Understand caching"): `models--org--name/{blobs,refs,snapshots/<commit>}`; a snapshot's
files are links to blobs, and a blob is called after its digest.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from glob import escape
from pathlib import Path, PurePosixPath

from edgeinfer.errors import ArtifactError, ModelNotFoundError, UsageError
from edgeinfer.formats.paths import check_digest, check_relative, safe_join, sha256_of
from edgeinfer.hub.file_names import is_first_part, part_names
from edgeinfer.hub.names import check_repo, near
from edgeinfer.paths import user_cache

__all__ = [
    "Installed",
    "cache_dir",
    "cache_dir_or_none",
    "installed",
    "is_offline",
    "known_digest",
    "locate",
    "remove",
    "repo_dir",
    "verify",
]

COMMIT = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]{0,127}")


@dataclass(frozen=True, slots=True)
class Installed:
    """One model in the cache: a `.gguf` file, or a whole snapshot (`file` is "")."""

    repo: str
    file: str
    revision: str  # the commit
    path: Path
    n_bytes: int
    sha256: str  # as the blob is called; "" for a folder and for files that the hub does not digest


def cache_dir() -> Path:
    """Where models are kept: HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. Raises UsageError without
    any of them, on a machine that has no home folder."""
    folder = cache_dir_or_none()
    if folder is None:
        raise UsageError(
            "there is no home folder to keep models in", hint="set HF_HOME to a folder that you can write to"
        )
    return folder


def cache_dir_or_none() -> Path | None:
    if named := os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE"):
        return _expanded(named)
    if home := os.environ.get("HF_HOME"):
        return _expanded(home) / "hub"
    base = user_cache()
    return base / "huggingface" / "hub" if base else None


def _expanded(folder: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(folder)))  # noqa: PTH111  # Path.expanduser raises without a home


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network; it holds for every source of models."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON")


def repo_dir(repo: str) -> Path:
    return cache_dir() / f"models--{check_repo(repo).replace('/', '--')}"


def locate(repo: str, file: str = "", revision: str = "") -> Path | None:
    """The path of `file` of `repo` (or of its whole snapshot); None if it is not in the cache. Never uses the network.

    The first part of a split file is there when all of its parts are.

    `revision` is a commit, a branch or a tag; "" is main.
    """
    if cache_dir_or_none() is None:
        return None
    folder, name = repo_dir(repo), file and check_relative(file)
    commit = _commit(folder, revision or "main")
    if commit is None:
        return None
    path = folder / "snapshots" / commit / name
    there = all((path.parent / PurePosixPath(part).name).is_file() for part in part_names(name))
    there = there if name else _is_whole(path)
    return path if there else None


def installed() -> list[Installed]:
    """Every model in the cache that edgeinfer can load, by repository and file."""
    found: list[Installed] = []
    base = cache_dir_or_none()
    for folder in sorted(base.glob("models--*--*") if base else ()):
        repo = folder.name.removeprefix("models--").replace("--", "/", 1)
        for snapshot in sorted(folder.glob("snapshots/*")):
            found += _in_snapshot(repo, snapshot)
    return found


def remove(repo: str, file: str = "") -> int:
    """Delete `file` of `repo`, or all of `repo`, from the cache; the bytes that this freed.

    Raises ModelNotFoundError when it is not there. Touches nothing outside the repository's own folder of the cache.
    """
    folder, parts = repo_dir(repo), part_names(file and check_relative(file))
    if not folder.is_dir() or folder.is_symlink():
        names = [model.repo for model in installed()]
        raise ModelNotFoundError(
            f"{repo} is not in the cache", hint=near(repo, names) or "`edgeinfer list` shows what is"
        )
    before = _disk_bytes(folder)
    if not file:
        shutil.rmtree(folder)
        shutil.rmtree(cache_dir() / ".locks" / folder.name, ignore_errors=True)
        return before
    found = [path for part in parts for path in folder.glob(f"snapshots/*/{escape(part)}")]
    links = [path for path in found if path.is_symlink() or path.is_file()]
    if not links:
        names = [model.file for model in installed() if model.repo == repo and model.file]
        raise ModelNotFoundError(f"{repo} has no {file} in the cache", hint=near(file, names))
    for link in links:
        link.unlink()
    used = {path.resolve() for path in folder.glob("snapshots/**/*") if path.is_symlink()}
    for blob in folder.glob("blobs/*"):
        if blob.resolve() not in used:
            blob.unlink()
    freed = before - _disk_bytes(folder)
    if not used and not any(path.is_file() for path in folder.glob("snapshots/**/*")):
        shutil.rmtree(folder)
    return freed


def verify(path: Path, sha256: str = "", progress: Callable[[int], None] = lambda _: None) -> str:
    """Read all of `path` and compare its digest with `sha256`, or with the name of its blob in the cache.

    Returns `sha256:<hex>`; raises ArtifactError when it differs. A file without a known digest passes.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist", hint="pull the model again")
    blob = path.resolve().name
    wanted = known_digest(path, sha256)
    found = sha256_of(path, progress)
    if wanted and found != wanted:
        raise ArtifactError(f"{path} has the digest {found}; {wanted} was expected", hint="remove it and pull it again")
    if not wanted and COMMIT.fullmatch(blob) and (git := _git_digest(path)) != blob:
        raise ArtifactError(f"{path} has the git digest {git}; {blob} was expected", hint="remove it and pull it again")
    return found


def known_digest(path: Path, sha256: str = "") -> str:
    """`sha256`, or else the digest in the name of the file's blob in the cache; "" if neither is known."""
    blob = path.resolve().name
    return check_digest(sha256) if sha256 else f"sha256:{blob}" if SHA256.fullmatch(blob) else ""


def _git_digest(path: Path) -> str:
    """The name git gives to the file's content; the hub uses it for small files."""
    state = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    state.update(path.read_bytes())
    return state.hexdigest()


def _commit(folder: Path, revision: str) -> str | None:
    if COMMIT.fullmatch(revision):
        return revision
    if not _REVISION.fullmatch(revision):
        raise UsageError(f"not a revision: {revision[:80]!r}", hint="name a commit, a branch or a tag")
    ref = safe_join(folder / "refs", revision)
    commit = ref.read_text().strip() if ref.is_file() else ""
    return commit if COMMIT.fullmatch(commit) else None


def _is_whole(snapshot: Path) -> bool:
    return (snapshot / "config.json").is_file() and any(path.is_file() for path in snapshot.glob("*.safetensors"))


def _in_snapshot(repo: str, snapshot: Path) -> Iterator[Installed]:
    for path in sorted(snapshot.rglob("*.gguf")):
        parts = [path.with_name(part) for part in part_names(path.name)]
        if is_first_part(path.name) and all(part.is_file() for part in parts):
            blob = path.resolve().name
            digest = f"sha256:{blob}" if SHA256.fullmatch(blob) else ""
            file = path.relative_to(snapshot).as_posix()
            yield Installed(repo, file, snapshot.name, path, sum(part.stat().st_size for part in parts), digest)
    if _is_whole(snapshot):
        n_bytes = sum(path.stat().st_size for path in snapshot.rglob("*") if path.is_file())
        yield Installed(repo, "", snapshot.name, snapshot, n_bytes, "")


def _disk_bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
