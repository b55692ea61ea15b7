"""`pull`, `list` and `plan` with unusual machines and files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.backends.gguf import GgufBackend
from edgeinfer.cli.main import main
from edgeinfer.plan import Probe
from tests.hub_server import FakeRepo, Hub
from tests.tiny_gguf import Tiny, write_tiny


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    model = write_tiny(tmp_path / "tiny.gguf").read_bytes()
    with Hub({"some/tiny-GGUF": FakeRepo({"tiny-F32.gguf": model})}).running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def test_pull_needs_no_engine(hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(GgufBackend, "probe", lambda _: Probe(unavailable="it is not installed", hint="install it"))
    assert main(["plan", "--model", "some/tiny-GGUF"]) == 3
    assert "it is not installed" in capsys.readouterr().err
    for backend in ([], ["--backend", "gguf"]):
        assert main(["pull", "some/tiny-GGUF", *backend]) == 0
        said = capsys.readouterr()
        assert Path(said.out.strip()).name == "tiny-F32.gguf"
        assert "cannot run it yet" in said.err


def test_list_shows_local_files(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny(tmp_path / "My Model.gguf", Tiny(tier="Q8_0"))
    assert main(["models", "add", str(path)]) == 0
    capsys.readouterr()
    assert main(["list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"name": "my-model", "tier": "Q8_0", "n_bytes": path.stat().st_size, "where": str(path)} in rows
    path.unlink()
    assert main(["list"]) == 0
    assert f"{path} (not there any more)" in capsys.readouterr().out


def test_a_backend_that_does_not_read_the_file_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny(tmp_path / "g.gguf", Tiny(architecture="gemma3", own_window=64))
    for backend in ("mlx", "reference"):
        assert main(["plan", "--model", str(path), "--backend", backend]) == 3
        said = capsys.readouterr().err
        assert f"its files are for gguf, not for {backend}" in said
        assert "--backend gguf" in said


@pytest.mark.parametrize(
    "odd", ["\U0001f468\u200d\U0001f469", "a\tb", 'it\'s "mine"', "\x7f", "back\\slash", "新\u3000", "\x1b["]
)
def test_a_file_in_an_odd_folder_is_added_and_found_again(
    hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str], odd: str
) -> None:
    (tmp_path / odd).mkdir()
    path = write_tiny(tmp_path / odd / "m.gguf")
    assert main(["models", "add", str(path), "--name", "mine"]) == 0
    capsys.readouterr()
    assert main(["show", "mine", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"][0]["path"] == str(path)
    assert main(["list"]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "pull", "rm"])
def test_an_empty_name_is_refused(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """An unset shell variable must not download 17 GB."""
    assert main([command, ""]) == 2
    assert "must name a model; received an empty text" in capsys.readouterr().err


def test_a_folder_of_several_models_lists_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("a.gguf", "b.gguf"):
        write_tiny(tmp_path / name)
    assert main(["show", f"{tmp_path}/"]) == 2
    assert "hint: name one: a.gguf, b.gguf" in capsys.readouterr().err
