"""The report of predicted against published speeds."""

import json
import statistics
from argparse import Namespace

import pytest

from benchmarks.predicted_speed import run


def test_the_report_has_a_row_for_each_published_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Namespace(json=True)) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) > 30 and len({row["chip"] for row in rows}) > 15
    assert statistics.median(abs(row["error"]) for row in rows) < 0.20


def test_every_outlier_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    run(Namespace(json=True))
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows if abs(row["error"]) > 0.15 and not row["note"]] == []


def test_a_row_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """M2, 7B at Q4_0: 3.82 GB over .94 x 100 GB/s, and 32 layers of 0.17 ms."""
    run(Namespace(json=True))
    rows = json.loads(capsys.readouterr().out)
    (row,) = [row for row in rows if row["chip"] == "Apple M2" and row["model"] == "7B Q4_0"]
    assert row["predicted"] == pytest.approx(1 / (3.82 / 94 + 32 * 0.17e-3), rel=1e-3)


def test_the_report_names_its_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(Namespace(json=False)) == 0
    text = capsys.readouterr().out
    assert "python -m benchmarks predicted_speed > docs/predicted-speed.md" in text and "Median error" in text
