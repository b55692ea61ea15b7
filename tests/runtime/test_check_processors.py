"""Without its tools, the check of other processors says what is missing and claims nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from tools import check_processors
from tools.check_processors import Answers, _compared


def test_without_tools_every_step_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    lines = [line for line in check_processors.report(tmp_path, []) if line.startswith("* ")]
    assert len(lines) == len(check_processors.STEPS)
    assert all(line.startswith("* skipped: there is no ") for line in lines)


def answers(tokens: int, lead: float, logit: float) -> Answers:
    n = len(check_processors.TEXTS)
    return Answers([[5, tokens]] * n, [[9.0, lead]] * n, np.full((n, 4), logit, np.float32), 16)


def test_answers_may_differ_only_where_two_tokens_are_close() -> None:
    expected = answers(6, 0.3, 1.0)
    assert "10 of 10 answers" in _compared(answers(6, 0.3, 1.2), expected)
    assert "0 of 10 answers" in _compared(answers(7, 0.3, 1.2), expected)
    with pytest.raises(RuntimeError, match="an answer parts"):
        _compared(answers(7, 0.3, 1.1), expected)
