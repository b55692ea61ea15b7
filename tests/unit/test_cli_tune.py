"""`edgeinfer tune` without its requirements, and its progress output."""

import importlib.util
from pathlib import Path

import pytest

from edgeinfer.cli.tune_command import Said, check_installed, duration
from edgeinfer.errors import BackendError, UsageError


@pytest.mark.parametrize(
    ("absent", "said", "hint"),
    [
        ({"torch", "safetensors"}, "teaching needs torch and safetensors", "edgeinfer[tune]"),
        ({"matplotlib"}, "drawing needs matplotlib", "edgeinfer[plot]"),
    ],
)
def test_missing_requirements_are_reported_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, absent: set[str], said: str, hint: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else object())
    with pytest.raises(BackendError, match=said) as refused:
        check_installed(Path("a.png"))
    assert hint in refused.value.hint


def test_a_plot_needs_a_png_name_in_an_existing_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    check_installed(tmp_path / "a.png")
    for wrong in (tmp_path / "a.pdf", tmp_path / "missing" / "a.png"):
        with pytest.raises(UsageError, match=r"must be a \.png in a folder that exists"):
            check_installed(wrong)


def test_a_log_gets_a_line_for_every_tenth(capsys: pytest.CaptureFixture[str]) -> None:
    said = Said()
    for n in range(1, 101):
        said.wrote(n, 100, n * 10)
    said.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "writing text: 1 of 100 parts, 10 tokens"
    assert lines[-1] == "writing text: 100 of 100 parts, 1,000 tokens"
    assert len(lines) == 11


def test_a_duration_in_words() -> None:
    assert [duration(seconds) for seconds in (5.4, 89, 90, 3600)] == ["5 s", "89 s", "2 min", "60 min"]
