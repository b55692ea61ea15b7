"""What a first load makes is told in a terminal, and nowhere else."""

import sys

import pytest

from edgeinfer.cli.opening import say_waiting


@pytest.mark.parametrize("in_terminal", [True, False])
def test_a_user_in_a_terminal_is_told(
    in_terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: in_terminal)
    say_waiting("compiling, once")
    assert capsys.readouterr() == ("", "compiling, once ...\n" if in_terminal else "")
