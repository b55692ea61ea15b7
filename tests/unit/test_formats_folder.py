"""Safetensors headers, model folders, paths, digests and pickles."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgeinfer.entries.folders import read_config
from edgeinfer.errors import ArtifactError
from edgeinfer.formats import check_artifact, check_digest, gguf_header, safe_join
from edgeinfer.formats.draft_file import read_draft_file
from edgeinfer.formats.manifest import read_manifest
from edgeinfer.formats.safetensors_header import SafetensorsFolder, read_header

GOOD: dict[str, Any] = {
    "__metadata__": {"format": "pt"},
    "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
    "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
}


def safetensors(table: object, n_data: int = 32, length: int | None = None) -> bytes:
    raw = table if isinstance(table, bytes) else json.dumps(table).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + b"\0" * n_data


def write(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


def folder(path: Path, config: object = None, **files: bytes) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config or {"model_type": "llama"}))
    for name, raw in files.items():
        (path / name).write_bytes(raw)
    return path


def test_the_header_of_a_valid_file_is_read(tmp_path: Path) -> None:
    header = read_header(write(tmp_path / "m.safetensors", safetensors(GOOD)))
    start = 8 + len(json.dumps(GOOD))
    assert header.metadata == {"format": "pt"}
    assert (header.tensors["b"].dtype, header.tensors["b"].shape) == ("BF16", (4,))
    assert (header.tensors["b"].offset, header.tensors["b"].n_bytes) == (start + 24, 8)


def without(name: str, **changes: object) -> dict[str, Any]:
    return {**GOOD, name: {**GOOD[name], **changes}}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"abc", "needs at least 8"),
        (safetensors(GOOD, length=2**63), "9223372036854775808 bytes"),
        (safetensors(b"{"), "not sound JSON"),
        (safetensors(b"[" * 100_000), "not sound JSON"),
        (safetensors(b'{"a":1,"a":1}'), "twice"),
        (safetensors(b"[]"), "the JSON is not an object"),
        (safetensors({"a": 1}), "not described"),
        (safetensors(GOOD, n_data=31), "the file at"),
        (safetensors(GOOD, n_data=33), "the file at"),
        (safetensors(without("a", shape=[2**62, 8])), "cannot have 24 bytes"),
        (safetensors(without("a", shape=[-2, -3])), "is of F32"),
        (safetensors(without("a", shape=[True, 6])), "is of F32"),
        (safetensors(without("a", dtype="PYOBJ")), "is of PYOBJ"),
        (safetensors(without("b", data_offsets=[16, 24])), "was expected"),
        (safetensors(without("b", data_offsets=[32, 24])), "is of BF16"),
    ],
)
def test_a_false_header_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_header(write(tmp_path / "m.safetensors", raw))


def test_a_valid_folder_is_read(tmp_path: Path) -> None:
    checked = check_artifact(folder(tmp_path / "m", **{"model.safetensors": safetensors(GOOD)}))
    assert isinstance(checked, SafetensorsFolder)
    assert checked.config["model_type"] == "llama"
    assert checked.n_bytes == len(safetensors(GOOD))


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    index = json.dumps({"weight_map": {"a": "../outside.safetensors"}}).encode()
    write(tmp_path / "outside.safetensors", safetensors(GOOD))
    with pytest.raises(ArtifactError, match="lead out"):
        check_artifact(folder(tmp_path / "m", **{"model.safetensors.index.json": index}))


def test_a_folder_that_names_python_to_run_is_refused(tmp_path: Path) -> None:
    made = folder(tmp_path / "m", {"model_file": "evil.py"}, **{"model.safetensors": safetensors(GOOD)})
    with pytest.raises(ArtifactError, match="Python file to run"):
        check_artifact(made)


def test_a_folder_of_pickles_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"pytorch_model\.bin is a pickle"):
        check_artifact(folder(tmp_path / "m", **{"pytorch_model.bin": b"\x80\x04."}))


def torch_zip() -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    return raw.getvalue()


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.pth", "m.pkl", "m.ckpt", "M.BIN"])
def test_pickles_are_known_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="files are pickles"):
        check_artifact(write(tmp_path / name, b"anything"))


@pytest.mark.parametrize(
    ("raw", "message"),
    [(pickle.dumps({}, protocol), "starts like a Python pickle") for protocol in (2, 3, 4, 5)]
    + [(torch_zip(), "zip archive"), (b"just text", "is not a GGUF file"), (b"", "is empty")],
)
def test_a_file_named_gguf_that_is_none_is_refused(tmp_path: Path, raw: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        check_artifact(write(tmp_path / "m.gguf", raw))


@pytest.mark.parametrize("name", ["a.gguf", "BF16/a.gguf", ".gitattributes", "a..b.gguf", "Modèle é.gguf"])
def test_plain_names_are_joined(tmp_path: Path, name: str) -> None:
    assert safe_join(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "..",
        "../a",
        "a/..",
        "a/../b",
        ".",
        "a/.",
        "a//b",
        "a/",
        "C:a",
        "a\\..\\b",
        "NUL",
        "com1.gguf",
        "a\n",
        "a\x00b",
        "a ",
        "a.",
        "\u202eabc",
        "x" * 256,
        "a|b",
        "aux.txt/b",
    ],
)
def test_names_that_could_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="refused the file name"):
        safe_join(tmp_path, name)


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path)
    with pytest.raises(ArtifactError, match="leads out of"):
        safe_join(tmp_path / "root", "link/a")


@pytest.mark.parametrize(
    "digest",
    [
        "",
        "sha256:",
        "sha256:" + "g" * 64,
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 63,
        "sha256:" + "0" * 64 + "\n",
        "sha256:../../../../etc/passwd",
        "sha512:" + "0" * 64,
    ],
)
def test_only_a_sha256_is_a_digest(digest: str) -> None:
    assert check_digest("sha256:" + "0a" * 32)
    with pytest.raises(ArtifactError, match="not a digest"):
        check_digest(digest)


READERS: dict[str, Callable[[Path], object]] = {
    "model.safetensors": check_artifact,
    "config.json": check_artifact,
    "model.safetensors.index.json": check_artifact,
    "manifest.json": lambda folder: read_manifest(folder / "manifest.json"),
    "x.draft.safetensors": lambda folder: read_draft_file(folder / "x.draft.safetensors"),
    "x.gguf": lambda folder: gguf_header.read_header(folder / "x.gguf"),
    "settings.json": lambda folder: read_config(folder / "settings.json"),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_in_a_folder_from_a_stranger_is_not_waited_for(tmp_path: Path, name: str) -> None:
    made = folder(tmp_path / "model", **{"model.safetensors": safetensors(GOOD)})
    (made / name).unlink(missing_ok=True)
    os.mkfifo(made / name)
    with pytest.raises(ArtifactError, match="it is a pipe or a device"):
        READERS[name](made)
