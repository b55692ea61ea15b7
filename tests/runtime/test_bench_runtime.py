"""`edgeinfer bench bundle --runtime`: what is asked of edgeinfer-run, and what is reported. No speed is asserted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from edgeinfer.bench.bundle import runtime as runtime_side
from edgeinfer.bench.bundle.runtime import Runtime, Session
from edgeinfer.cli.main import main
from edgeinfer.errors import EngineError
from tests.runtime.built import Runtime as Built


def test_a_chunk_and_a_round_are_what_is_timed(built: Built, tiny: Path, tmp_path: Path) -> None:
    """Of each prompt but the first, only the last `n_tokens` are new."""
    with Session(Runtime(built.program, tiny, tmp_path), 1) as session:
        session.seconds(128, 896)
        stats = session.answer(session._prompt(128, 896))
        assert (stats["reused"], stats["prefilled"]) == (896, 128)
        session.seconds(1, 200)
        stats = session.answer(session._prompt(1, 200))
        assert (stats["reused"], stats["prefilled"], stats["drafted"]) == (199, 1, 0)


def test_a_bundle_is_measured(
    built: Built, demo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(runtime_side, "_PER_KIND", 1)
    assert main(["bench", "bundle", str(demo), "--runtime", str(built.program), "--runs", "2"]) == 0
    report = capsys.readouterr().out
    assert "the first token of an answer to 20 tokens: " in report
    assert re.search(r"\| copy \| 1 \| .* \| 1/1 \|", report)  # the same tokens with drafts
    if sys.platform == "linux":
        assert re.search(r"\| resident \| [0-9.]+ \| [0-9.]+ \|", report)


def test_a_program_that_cannot_run_says_why(built: Built, tmp_path: Path) -> None:
    with (
        Session(Runtime(built.program, tmp_path / "none", tmp_path), 1) as session,
        pytest.raises(EngineError, match=r"edgeinfer-run ended: error: .*none"),
    ):
        session.answer([5])
    with pytest.raises(EngineError, match="does not start: No such file") as caught:
        Session(Runtime(tmp_path / "edgeinfer-run", tmp_path, tmp_path), 1)
    assert caught.value.hint == "build it as mobile/README.md says"
