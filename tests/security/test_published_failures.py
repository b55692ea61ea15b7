"""One test for each published failure class that a model file, a file name or a digest can cause.

The names of the classes are those of SECURITY.md; ids in the docstrings belong to the runtimes that had the failure.
"""

from __future__ import annotations

import ast
import io
import pickle
import re
import struct
import zipfile
from pathlib import Path

import pytest

from edgeinfer import hub
from edgeinfer.errors import ArtifactError, ModelNotFoundError, UsageError
from edgeinfer.formats import check_artifact, check_digest, safe_join
from tests import gguf_bytes as g
from tests.hub_server import FakeRepo, Hub

PACKAGE = Path(__file__).parents[2] / "edgeinfer"


def gguf(folder: Path, raw: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(raw)
    return path


def replaced_tensor(name: str, shape: tuple[int, ...], offset: int = 0) -> bytes:
    return g.file(listed=[(name, shape, 0, offset), *g.tensors()[1:]])


def test_a_digest_is_never_a_path(tmp_path: Path) -> None:
    """CVE-2024-37032, CVE-2026-103663: a digest from the registry was joined to the blob folder."""
    for digest in (
        "sha256:../../../root/.ssh/authorized_keys",
        "../x",
        "sha256-" + "0" * 64,
        "sha256:" + "0" * 63 + "/",
    ):
        with pytest.raises(ArtifactError):
            check_digest(digest)


def test_an_etag_is_never_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same through the header that names a blob of the Hugging Face cache."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "a" / "b"))
    with Hub({"o/r": FakeRepo({"m.gguf": g.file()})}).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        server.faults.etag = "../../../../stolen"
        with pytest.raises(ArtifactError, match="the hub gives the digest"):
            hub.pull("o/r", "m.gguf")
    assert not list(tmp_path.rglob("*stolen*"))


def test_a_listed_name_does_not_leave_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2026-7020, CVE-2024-45436: names from a manifest or an archive were written where they pointed."""
    name = "../../../evil.gguf"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "a" / "b"))
    with Hub({"o/r": FakeRepo({name: g.file(), "/etc/evil.gguf": g.file()})}).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        assert hub.look_up("o/r").files == ()
        for asked in (name, "/etc/evil.gguf"):
            with pytest.raises((ArtifactError, ModelNotFoundError)):
                hub.pull("o/r", asked)
    assert not list(tmp_path.rglob("evil*"))


def test_a_repository_is_never_a_path() -> None:
    for repo in ("../../etc", "o/..", "o/r/../..", "/abs/r", "o\\r/x", "o--r/x"):
        with pytest.raises(UsageError):
            hub.locate(repo, "m.gguf")


def test_a_file_name_is_never_code(tmp_path: Path) -> None:
    """CVE-2026-58474: a file name was written into a script. Names with quotes or control characters are refused."""
    for name in ('a";import os;".gguf', "a\nb.gguf", "a\x1b[2J.gguf", "a\u202efugg.gguf"):
        with pytest.raises(ArtifactError):
            safe_join(tmp_path, name)


@pytest.mark.parametrize(
    ("shape", "offset"),
    [
        ((2**32, 2**32), 0),  # the product is 0 in 64 bits
        ((2**62, 1), 0),  # four bytes a value: the size is 0 in 64 bits
        ((32, 2**59 + 8), 0),  # the size wraps to what the tensor should have
        ((32, 8), 2**64 - 32),  # offset plus size wraps
        ((32, 8), 1 << 40),  # past the end of the file
    ],
)
def test_tensor_sizes_that_overflow(tmp_path: Path, shape: tuple[int, ...], offset: int) -> None:
    """CVE-2025-53630, CVE-2026-27940, CVE-2026-33298, CVE-2026-7482: sums and products were done in 64 bits."""
    with pytest.raises(ArtifactError):
        check_artifact(gguf(tmp_path, replaced_tensor("token_embd.weight", shape, offset)))


@pytest.mark.parametrize("count", [2**31, 2**32 + 1, 2**60, 2**61 + 1, 2**64 - 1])
@pytest.mark.parametrize("place", ["tensors", "keys", "key length", "string", "array"])
def test_counts_that_overflow(tmp_path: Path, count: int, place: str) -> None:
    """CVE-2024-21802, -21825, -21836, -23496, -23605: `count * size` was allocated, then `count` items were read."""
    start, one = b"GGUF" + struct.pack("<I", 3), struct.pack("<QQ", 0, 1)
    raw = {
        "tensors": start + struct.pack("<QQ", count, 0),
        "keys": start + struct.pack("<QQ", 0, count),
        "key length": start + one + struct.pack("<Q", count),
        "string": start + one + g.text("k") + struct.pack("<IQ", g.STRING, count),
        "array": start + one + g.text("k") + struct.pack("<IIQ", g.ARRAY, g.U64, count),
    }[place]
    with pytest.raises(ArtifactError):
        check_artifact(gguf(tmp_path, raw + b"\0" * 4096))


@pytest.mark.parametrize(
    "keys",
    [
        {"llama.attention.head_count": (g.U32, 0)},  # divided by
        {"llama.attention.head_count_kv": (g.U32, 0)},
        {"llama.embedding_length": (g.U32, 0)},
        {"tokenizer.ggml.eos_token_id": (g.STRING, "1")},  # read as an index into the vocabulary
        {"tokenizer.ggml.token_type": (g.ARRAY, (g.I32, [1]))},  # read for every token
        {"tokenizer.ggml.tokens": (g.ARRAY, (g.STRING, ["a"] * 8))},  # aborts llama.cpp
        {"llama.attention.layer_norm_rms_epsilon": (g.F32, -1.0)},  # aborts llama.cpp
        {"llama.rope.scaling.type": (g.STRING, "?")},  # aborts llama.cpp
    ],
)
def test_numbers_that_engines_divide_by_and_index_with(tmp_path: Path, keys: dict[str, g.Typed]) -> None:
    """CVE-2026-53923 and the Talos reports: values of the metadata went unchecked into arithmetic."""
    with pytest.raises(ArtifactError):
        check_artifact(gguf(tmp_path, g.file({**g.KEYS, **keys})))


class Boom:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle ran')",))


@pytest.mark.parametrize("name", ["m.bin", "m.pt", "m.pth", "m.pkl", "m.gguf", "m"])
@pytest.mark.parametrize("zipped", [False, True])
def test_pickles_never_run(tmp_path: Path, name: str, zipped: bool) -> None:
    """CVE-2025-32434, CVE-2026-24747: weights in pickle form, under any name, zipped or not."""
    raw = pickle.dumps(Boom())
    if zipped:
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            archive.writestr("archive/data.pkl", raw)
        raw = packed.getvalue()
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ArtifactError):
        check_artifact(tmp_path / name)


def test_python_in_a_repository_is_neither_fetched_nor_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2026-5843: `model_file` in config.json was imported."""
    files = {
        "config.json": b'{"model_file": "evil.py"}',
        "evil.py": b"raise SystemExit",
        "pytorch_model.bin": b"\x80\x04.",
    }
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with Hub({"o/r": FakeRepo(files)}).running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        folder = hub.pull("o/r")
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    with pytest.raises(ArtifactError, match="Python file to run"):
        check_artifact(folder)


def test_no_line_of_the_package_trusts_remote_code() -> None:
    """CVE-2026-5817 and others: wherever the flag is written it is False, and no module unpickles or evaluates data."""
    forbidden_calls = {"eval", "exec", "__import__"}
    forbidden_modules = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            where = f"{path.name}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.keyword) and node.arg == "trust_remote_code":
                assert isinstance(node.value, ast.Constant), where
                assert node.value.value is False, where
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in forbidden_calls, where
            if isinstance(node, ast.Import):
                assert not {name.name.split(".")[0] for name in node.names} & forbidden_modules, where
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in forbidden_modules, where
        assert not re.search(r"""["']trust_remote_code["']\s*:\s*True""", path.read_text()), path.name
