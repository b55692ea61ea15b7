"""The names that users type, and what they mean."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgeinfer.errors import ArtifactError, EdgeInferError, ModelNotFoundError, UsageError
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
def test_each_form_of_a_name_is_parsed(text: str, name: ModelName) -> None:
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
def test_a_tier_in_a_file_name_is_a_whole_word(file: str, tier: str, is_it: bool) -> None:
    assert is_of_tier(file, tier) is is_it


def test_a_path_names_a_file_or_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(g.file())
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path)
    assert parse_name(str(tmp_path / "m.gguf"), CATALOG) == ModelName("file", path=tmp_path / "m.gguf")
    assert parse_name("m.gguf", CATALOG) == ModelName("file", path=Path("m.gguf"))
    assert parse_name("./sub", CATALOG) == ModelName("folder", path=Path("sub"))
    (tmp_path / "demo").mkdir()
    assert parse_name("demo", CATALOG).kind == "catalog", "a folder of that name does not hide the catalog"


@pytest.mark.parametrize(
    ("text", "kind", "message", "hint"),
    [
        ("Llama 3.2 8B", ModelNotFoundError, "'Llama 3.2 8B'", "llama-3.1-8b"),
        ("qwen-3-4b", ModelNotFoundError, "qwen-3-4b", "did you mean qwen3-4b"),
        ("zzz", ModelNotFoundError, "zzz", "edgeinfer list --catalog"),
        ("./none.gguf", ModelNotFoundError, "does not exist", "check the path"),
        ("model.gguff", ModelNotFoundError, "no model", ""),
        ("org/repo:", UsageError, "not a tier: ''", "org/repo:Q4_K_M"),
        ("org/repo:a/b", UsageError, "not a tier", ""),
        ("org/repo/more", UsageError, "not a repository", "org/name"),
        ("org/..", UsageError, "not a repository", ""),
        ("", UsageError, "not a model name", "edgeinfer list --catalog"),
        ("a\x1b[31m", UsageError, "not a model name", ""),
        ("/tmp/x.bin", ArtifactError, "files are pickles", ".gguf"),
    ],
)
def test_a_misspelled_name_is_refused_with_suggestions(
    text: str, kind: type[EdgeInferError], message: str, hint: str
) -> None:
    with pytest.raises(kind) as caught:
        parse_name(text, CATALOG)
    assert message in str(caught.value)
    assert hint in caught.value.hint


ODD_NAMES = {
    "ideographic space": "新しい\u3000フォルダー",
    "no-break space": "mes\u00a0modèles",
    "narrow no-break space": "Bildschirmfoto 10\u202fUhr",
    "joined emoji": "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "non-joiner": "می\u200cخواهم",
    "tab": "a\tb",
    "newline": "a\nb",
    "escape": "a\x1b[31mb",
    "bidi": "a\u202egfug",
    "new emoji": "\U0001fae9",
    "private use": "\ue000",
    "colon": "org:Q4_K_M",
    "quote and blank": 'it\'s "mine" ',
}


@pytest.mark.parametrize("odd", ODD_NAMES.values(), ids=ODD_NAMES)
@pytest.mark.parametrize("absolute", [True, False])
def test_a_path_may_contain_any_character(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str, absolute: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / odd
    folder.mkdir()
    for file in (folder / "m.gguf", folder / f"{odd}.gguf", folder / odd):
        file.write_bytes(g.file())
        text = str(file) if absolute else str(file.relative_to(tmp_path))
        assert parse_name(text, CATALOG) == ModelName("file", path=Path(text))


@pytest.mark.parametrize("text", ["\x00", "a\x00.gguf", "x" * 5000, "./" + "x" * 5000, "~nobody-here/m.gguf"])
def test_an_impossible_path_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(EdgeInferError):
        parse_name(text, CATALOG)


def test_a_folder_with_one_model_file_is_that_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "some" / "model"
    folder.mkdir(parents=True)
    (folder / "README.md").write_text("# model")
    (folder / "model-Q4_0.GGUF").write_bytes(g.file())
    (folder / "mmproj-F16.gguf").write_bytes(b"")
    for text in ("some/model", "./some/model", str(folder), "some/model/"):
        found = parse_name(text, CATALOG)
        assert found.kind == "file" and found.path is not None
        assert found.path.resolve() == folder / "model-Q4_0.GGUF"
    for part in (1, 2):
        (folder / f"big-{part:05}-of-00002.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"holds 2 \.gguf files") as caught:
        parse_name("./some/model", CATALOG)
    assert "big-00001-of-00002.gguf" in caught.value.hint and "00002-of" not in caught.value.hint
    (folder / "model-Q4_0.GGUF").unlink()
    assert parse_name("some/model", CATALOG).path == Path("some/model/big-00001-of-00002.gguf")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    assert parse_name("some/model", CATALOG) == ModelName("folder", path=Path("some/model"))


def test_a_model_file_needs_no_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("blobs/sha256-0a", "sha256-0b", "demo"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(g.file())
    assert parse_name("blobs/sha256-0a", CATALOG) == ModelName("file", path=Path("blobs/sha256-0a"))
    assert parse_name("sha256-0b", CATALOG) == ModelName("file", path=Path("sha256-0b"))
    assert parse_name("demo", CATALOG) == ModelName("catalog", "demo"), "./demo is the file"
    assert parse_name("./demo", CATALOG) == ModelName("file", path=Path("demo"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf.co/org/repo", ModelName("repo", "org/repo")),
        ("hf.co/org/repo:Q4_K_M", ModelName("repo", "org/repo", "Q4_K_M")),
        ("HF.co/org/repo", ModelName("repo", "org/repo")),
        ("huggingface.co/org/repo:q8_0", ModelName("repo", "org/repo", "q8_0")),
        ("https://huggingface.co/org/repo", ModelName("repo", "org/repo")),
        ("https://huggingface.co/org/repo/", ModelName("repo", "org/repo")),
        ("https://huggingface.co/org/repo/tree/main", ModelName("repo", "org/repo")),
        ("https://huggingface.co/org/repo?show_file_info=x", ModelName("repo", "org/repo")),
        ("https://huggingface.co/org/repo/blob/main/a-Q4_0.gguf", ModelName("repo", "org/repo", file="a-Q4_0.gguf")),
        (
            "https://huggingface.co/org/repo/resolve/main/BF16/a%20b.gguf?download=true",
            ModelName("repo", "org/repo", file="BF16/a b.gguf"),
        ),
        ("hf://org/repo/a.gguf", ModelName("repo", "org/repo", file="a.gguf")),
        ("https://hf-mirror.com/org/repo", ModelName("repo", "org/repo")),
        ("https://mirror.example/org/repo", ModelName("repo", "org/repo")),  # the host in HF_ENDPOINT
        ("org/repo/a-Q4_0.gguf", ModelName("repo", "org/repo", file="a-Q4_0.gguf")),
        ("qwen3:4b", ModelName("catalog", "qwen3-4b")),
        ("llama3.2:1b", ModelName("catalog", "llama-3.2-1b")),
        ("llama3.2:3b-instruct-q8_0", ModelName("catalog", "llama-3.2-3b", "Q8_0")),
        ("llama3.2:1b-instruct-fp16", ModelName("catalog", "llama-3.2-1b", "F16")),
        ("Qwen3:4B-Q4_K_M", ModelName("catalog", "qwen3-4b", "Q4_K_M")),
        ("library/qwen3:4b", ModelName("catalog", "qwen3-4b")),
        ("https://ollama.com/library/qwen3:4b", ModelName("catalog", "qwen3-4b")),
        ("ollama://qwen3:4b", ModelName("catalog", "qwen3-4b")),
        ("demo:latest", ModelName("catalog", "demo")),
    ],
)
def test_addresses_and_names_of_others(monkeypatch: pytest.MonkeyPatch, text: str, name: ModelName) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert parse_name(text, CATALOG) == name


def test_a_file_address_names_its_path(tmp_path: Path) -> None:
    path = tmp_path / "a b é.gguf"
    path.write_bytes(g.file())
    assert parse_name(path.as_uri(), CATALOG) == ModelName("file", path=path)
    assert parse_name(f"file://localhost{path}".replace(" ", "%20"), CATALOG) == ModelName("file", path=path)
    with pytest.raises(ModelNotFoundError, match="does not exist"):
        parse_name(f"file://{tmp_path}/none.gguf", CATALOG)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("https://example.com/a.gguf", "not loaded from 'example.com'", "download the file yourself"),
        ("s3://bucket/a.gguf", "not loaded from 'bucket'", "download the file yourself"),
        ("https://huggingface.co/org", "not the address of a model", "org/repo"),
        ("https://huggingface.co/datasets/org/x", "not the address of a model", "org/repo"),
        ("https://huggingface.co/org/repo/blob/v2/a.gguf", "not 'v2'", "write org/repo"),
        ("https://huggingface.co/org/repo/blob/main/model.safetensors", "is not a .gguf file", "org/repo:Q4_K_M"),
        ("hf.co/org/repo:a b", "not a tier", "org/repo:Q4_K_M"),
        ("hf.co/../..", "not a repository", "org/name"),
        ("library/qwen:4b", "no counterpart", "did you mean qwen3-4b"),
        ("llama3.2", "no model is called", "llama-3.2-"),
    ],
)
def test_addresses_of_pages_without_a_model_are_refused(text: str, message: str, hint: str) -> None:
    with pytest.raises(EdgeInferError) as caught:
        parse_name(text, CATALOG)
    assert message in str(caught.value)
    assert hint in caught.value.hint


def test_file_names_are_suggested(tmp_path: Path) -> None:
    (tmp_path / "tiny-Q4_0.gguf").write_bytes(b"")
    with pytest.raises(ModelNotFoundError) as caught:
        parse_name(str(tmp_path / "tiny-Q4_O.gguf"), CATALOG)
    assert caught.value.hint == "did you mean tiny-Q4_0.gguf?"


def test_a_pipe_is_not_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    with pytest.raises(ArtifactError, match=r"m\.gguf is a pipe or device, not a file"):
        parse_name(str(tmp_path / "m.gguf"), [])


@pytest.mark.parametrize("text", ["~x.gguf", "./~x.gguf", "~nobody/x.gguf"])
def test_a_name_that_begins_with_a_tilde_may_be_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("~nobody").mkdir()
    for file in ("~x.gguf", "~nobody/x.gguf"):
        Path(file).touch()
    assert parse_name(text) == ModelName("file", path=Path(text))


@pytest.mark.parametrize("target", ["x.gguf", "gone.gguf"], ids=["loop", "gone"])
def test_a_link_that_leads_nowhere_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.gguf").symlink_to(target)
    with pytest.raises(ModelNotFoundError, match=r"x\.gguf is a link that leads nowhere"):
        parse_name("./x.gguf")
