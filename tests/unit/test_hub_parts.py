"""A split model on the hub is pulled, listed, shown, verified and removed as one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer import hub
from edgeinfer.catalog import ModelEntry
from edgeinfer.cli.main import main
from edgeinfer.entries.files import entry_of_repo
from edgeinfer.errors import ArtifactError, ModelNotFoundError
from edgeinfer.formats import GgufHeader, check_artifact
from edgeinfer.hub.file_names import part_names
from tests.hub_server import FakeRepo, Hub
from tests.unit.test_formats_split import in_three

NAMES = tuple(f"big/m-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.delenv(name, raising=False)
    parts = [path.read_bytes() for path in in_three(tmp_path)]
    repos = {
        "org/big": FakeRepo(dict(zip(NAMES, parts, strict=True))),
        "org/half": FakeRepo(dict(zip(NAMES[:2], parts, strict=False))),
        "org/wrong": FakeRepo(dict(zip(NAMES, [parts[0], parts[2], parts[1]], strict=True))),
    }
    with Hub(repos).running() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def entry(repo: str) -> ModelEntry:
    return entry_of_repo(repo, "Q8_0", offline=False)


def test_pull_list_verify_and_remove(server: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = entry("org/big")
    total = sum(len(server.repos["org/big"].files[name]) for name in NAMES)
    assert (before.artifacts[0].file, before.artifacts[0].n_bytes) == (NAMES[0], total)
    assert [artifact.backend for artifact in before.artifacts] == ["gguf"]
    seen: list[int] = []
    path = hub.pull("org/big", NAMES[0], progress=lambda done, _: seen.append(done))
    assert seen[-1] == total
    header = check_artifact(path)
    assert isinstance(header, GgufHeader) and len(header.parts) == 3
    assert [(one.file, one.n_bytes) for one in hub.installed()] == [(NAMES[0], total)]
    assert entry("org/big").artifacts[0].n_bytes == total
    n_downloads = len(server.downloads())
    assert hub.pull("org/big", NAMES[0]) == path and len(server.downloads()) == n_downloads
    assert main(["show", "org/big:Q8_0", "--verify"]) == 0
    assert "verified" in capsys.readouterr().out
    header.parts[2].resolve().write_bytes(header.parts[2].read_bytes()[:-1] + b"x")
    assert main(["show", "org/big:Q8_0", "--verify"]) == 4, "the last part is read too"
    assert hub.remove("org/big", NAMES[0]) == total
    assert hub.installed() == [] and hub.locate("org/big", NAMES[0]) is None


def test_a_pull_that_stopped_between_parts_continues(server: Hub) -> None:
    path = hub.pull("org/big", NAMES[0])
    (path.parent / Path(NAMES[1]).name).unlink()
    assert hub.locate("org/big", NAMES[0]) is None and hub.installed() == []
    assert hub.pull("org/big", NAMES[0]) == path


def test_incomplete_or_mismatched_parts_are_refused(server: Hub, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="only in parts, and not all of them"):
        entry("org/half")
    with pytest.raises(ModelNotFoundError, match="has no file big/m-Q8_0-00003-of-00003"):
        hub.pull("org/half", NAMES[0])
    with pytest.raises(ArtifactError, match="says that it is part"):
        entry("org/wrong")
    with pytest.raises(ArtifactError, match="says that it is part"):
        hub.pull("org/wrong", NAMES[0])
    assert hub.installed() == [] and not list(tmp_path.glob("hf/**/*wrong/**/*.gguf"))


@pytest.mark.parametrize(
    ("file", "n"),
    [("a.gguf", 1), (NAMES[0], 3), (NAMES[1], 1), ("a-00001-of-00001.gguf", 1), ("a-00001-of-99999.gguf", 1), ("", 1)],
)
def test_part_names_are_parsed(file: str, n: int) -> None:
    names = part_names(file)
    assert len(names) == n and names[0] == file
    assert n == 1 or names == NAMES
