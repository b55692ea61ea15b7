"""What `make chat` shows while it builds llama.cpp, and when there is nothing to build."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from tools import build_llama


def test_without_a_terminal_each_tenth_of_the_build_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    log = io.StringIO()
    steps = [f"  [{n}/20] Building CXX object a.o\n" for n in range(1, 21)]
    build_llama.show_progress(["  *** CMake build\n", *steps], log)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["building llama.cpp 1/20", "building llama.cpp 2/20"]
    assert lines[-1] == "building llama.cpp 20/20"
    assert len(lines) == 11  # 1 of 20 is a tenth too: the zeroth
    assert log.getvalue().count("\n") == 21


def test_a_wheel_that_is_there_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"llama_cpp_python-{build_llama.pinned_version()}-py3-none-linux_x86_64.whl").touch()
    monkeypatch.setattr(build_llama, "pip", lambda *arguments: pytest.fail("asked the index"))
    assert build_llama.main(tmp_path) == 0


def test_a_failed_build_shows_the_end_of_its_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script = "print('\\n'.join(map(str, range(100)))); raise SystemExit(3)"
    assert build_llama.build([sys.executable, "-c", script], tmp_path / "build.log") == 3
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "70" and said[-2] == "99"
    assert said[-1] == f"error: building llama.cpp failed; all of its output: {tmp_path / 'build.log'}"
