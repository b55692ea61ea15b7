"""Small files that are kept between runs, and their folders."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from edgeinfer import paths
from edgeinfer.kept import MAX_BYTES, read_kept, write_kept, write_whole


def test_a_kept_value_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "below" / "one.json"
    write_kept(file, {"speed": 3.5, "names": ["a"]})
    assert read_kept(file) == {"speed": 3.5, "names": ["a"]}
    assert [path.name for path in file.parent.iterdir()] == ["one.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe", b"[" * 100_000, b" " * MAX_BYTES + b"{}"])
def test_a_file_of_another_kind_is_ignored(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "one.json"
    file.write_bytes(content)
    assert read_kept(file) == {}


def test_a_missing_file_reads_as_nothing(tmp_path: Path) -> None:
    assert read_kept(None) == read_kept(tmp_path / "none.json") == read_kept(tmp_path) == {}


def test_a_value_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_kept(tmp_path / "file" / "one.json", {"a": 1})
    write_kept(None, {"a": 1})


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "one.json"
    write_kept(file, {"old": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    write_kept(file, {"new": 1})
    assert read_kept(file) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["one.json"]


def test_a_refused_text_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "one.txt"
    write_whole(file, "old")

    def refuse(part: Path) -> None:
        assert part.read_text() == "new"
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        write_whole(file, "new", check=refuse)
    assert file.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["one.txt"]


def test_folders_follow_the_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths.cache_folder() == tmp_path / ".cache" / "edgeinfer"
    assert paths.config_folder() == tmp_path / ".config" / "edgeinfer"
    assert paths.state_folder() == tmp_path / ".local" / "state" / "edgeinfer"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert paths.cache_folder() == tmp_path / "c" / "edgeinfer"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert paths.cache_folder() == tmp_path / ".cache" / "edgeinfer"


NO_HOME = """
import os, pwd, sys
def unknown(uid): raise KeyError(uid)
pwd.getpwuid = unknown
from edgeinfer.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "command",
    [
        ["plan", "--json"],
        ["plan", "demo"],
        ["list", "--json"],
        ["doctor", "--json"],
        ["show", "qwen3-4b", "--json", "--offline"],
    ],
)
def test_commands_work_without_a_home(command: list[str]) -> None:
    ran = without_home(*command)
    assert ran.returncode == 0, ran.stderr
    if "--json" in command:
        json.loads(ran.stdout)


def test_a_command_that_needs_a_home_says_so() -> None:
    ran = without_home("pull", "qwen3-0.6b")
    assert ran.returncode == 2
    assert ran.stderr.splitlines()[-2:] == [
        "error: there is no home folder to keep models in",
        "hint: set HF_HOME to a folder that you can write to",
    ]


def without_home(*command: str) -> "subprocess.CompletedProcess[str]":
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    return subprocess.run([sys.executable, "-c", NO_HOME, *command], env=kept, capture_output=True, text=True)


def test_only_paths_py_names_the_folders() -> None:
    package = Path(paths.__file__).parent
    knowing = {
        str(file.relative_to(package))
        for file in package.rglob("*.py")
        for word in ('environ.get("XDG', "Path.home()", "tempfile.mkstemp", "NamedTemporaryFile", "O_EXCL")
        if word in file.read_text(encoding="utf-8")
    }
    assert knowing == {"paths.py", "kept.py"}
