"""What people type, and what it means."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeinfer.errors import ArtifactBad, EdgeInferError, ModelNotFound, UsageError
from edgeinfer.hub import ModelName, is_of_tier, parse_name
from tests import gguf_bytes as g

CATALOG = ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b", "qwen3-4b", "demo")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("demo", ModelName("catalog", "demo")),
        ("Llama-3.2-3B", ModelName("catalog", "llama-3.2-3b")),
        ("llama 3.2 3b", ModelName("catalog", "llama-3.2-3b")),
        ("qwen3-4b:Q8_0", ModelName("catalog", "qwen3-4b", "Q8_0")),
        ("org/repo", ModelName("repo", "org/repo")),
        (
            "bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M",
            ModelName("repo", "bartowski/Llama-3.2-1B-Instruct-GGUF", "Q4_K_M"),
        ),
    ],
)
def test_names(text: str, name: ModelName) -> None:
    assert parse_name(text, CATALOG) == name


@pytest.mark.parametrize(
    ("file", "tier", "is_it"),
    [
        ("model-Q4_K_M.gguf", "q4_k_m", True),
        ("sub/model.F16.gguf", "F16", True),
        ("model-BF16.gguf", "F16", False),
        ("mmproj-F16.gguf", "F16", False),
        ("model-Q4_K_M.gguf", "", True),
        ("mmproj-F16.gguf", "", False),
        ("model.gguf", "F16", False),
    ],
)
def test_the_tier_of_a_file_is_the_whole_word(file: str, tier: str, is_it: bool) -> None:
    assert is_of_tier(file, tier) is is_it


def test_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(g.file())
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_name(str(tmp_path / "m.gguf"), CATALOG) == ModelName("file", path=tmp_path / "m.gguf")
    assert parse_name("m.gguf", CATALOG) == ModelName("file", path=Path("m.gguf"))
    assert parse_name("./sub", CATALOG) == ModelName("folder", path=Path("sub"))
    (tmp_path / "demo").mkdir()
    assert parse_name("demo", CATALOG).kind == "catalog", "a folder of that name does not hide the catalogue"


@pytest.mark.parametrize(
    ("text", "kind", "message", "hint"),
    [
        ("Llama 3.2 8B", ModelNotFound, "'Llama 3.2 8B'", "llama-3.1-8b"),
        ("qwen-3-4b", ModelNotFound, "qwen-3-4b", "did you mean qwen3-4b"),
        ("zzz", ModelNotFound, "zzz", "edgeinfer list --catalog"),
        ("./none.gguf", ModelNotFound, "does not exist", "check the path"),
        ("model.gguff", ModelNotFound, "no model", ""),
        ("org/repo:", UsageError, "not a tier: ''", "org/repo:Q4_K_M"),
        ("org/repo:a/b", UsageError, "not a tier", ""),
        ("org/repo/more", UsageError, "not a repository", "org/name"),
        ("org/..", UsageError, "not a repository", ""),
        ("", UsageError, "not a model name", "edgeinfer list --catalog"),
        ("a\x1b[31m", UsageError, "not a model name", ""),
        ("/tmp/x.bin", ArtifactBad, "files are pickles", ".gguf"),
    ],
)
def test_near_misses(text: str, kind: type[EdgeInferError], message: str, hint: str) -> None:
    with pytest.raises(kind) as caught:
        parse_name(text, CATALOG)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_near_file_names(tmp_path: Path) -> None:
    (tmp_path / "tiny-Q4_0.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFound) as caught:
        parse_name(str(tmp_path / "tiny-Q4_O.gguf"), CATALOG)
    assert caught.value.hint == "did you mean tiny-Q4_0.gguf?"
