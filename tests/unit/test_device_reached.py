"""The speed that decoding reached: the best of a month is kept, but no first figure from a busy machine."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edgeinfer.decode.policy.arms import Outcome
from edgeinfer.decode.stats import AnswerStats
from edgeinfer.device import reached as subject
from edgeinfer.device.reached import keep_reached, read_reached
from edgeinfer.plan import Request, explain, make_plan
from tests.unit.plan_things import GGUF, artifact, catalog, device, model


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subject, "is_busy", lambda: False)


def test_the_best_is_kept_for_each_machine() -> None:
    for per_s in (50.0, 59.0, 20.0):
        keep_reached("here", "file", per_s)
    assert read_reached("here") == {"file": 59.0}
    assert read_reached("elsewhere") == {}


def test_a_busy_machine_gives_no_first_figure_but_may_raise_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "is_busy", lambda: True)
    keep_reached("here", "file", 20.0)
    assert read_reached("here") == {}
    monkeypatch.setattr(subject, "is_busy", lambda: False)
    keep_reached("here", "file", 50.0)
    monkeypatch.setattr(subject, "is_busy", lambda: True)
    keep_reached("here", "file", 59.0)
    assert read_reached("here") == {"file": 59.0}


@pytest.mark.parametrize("value", [7, [1.0], ["fast", 1.0], [-1.0, time.time()], [5.0, time.time() - 40 * 86400]])
def test_what_is_damaged_or_old_is_left_out(tmp_path: Path, value: object) -> None:
    keep_reached("here", "file", 50.0)
    file = tmp_path / "edgeinfer" / "reached-speeds.json"
    file.write_text(json.dumps({"here": {"file": value}}))
    assert read_reached("here") == {}


def test_only_rounds_without_drafts_of_a_short_chat_count() -> None:
    stats = AnswerStats(kept=300)
    for _ in range(24):
        stats.add("none", Outcome(0, 0, 1, 0.0, 0.02), 0.02)
        stats.add("lookup", Outcome(3, 3, 4, 0.0, 0.03), 0.03)
    assert stats.plain_tokens_per_s() == pytest.approx(50.0)
    stats.kept = 3000
    assert stats.plain_tokens_per_s() == 0.0
    assert AnswerStats(kept=300).plain_tokens_per_s() == 0.0


def test_a_plan_uses_the_reached_speed_and_shows_both_figures() -> None:
    file = artifact(0.5, "Q4_0")
    from dataclasses import replace

    here = replace(device(gb_per_s=100), reached={file.key: 59.4})
    plan = make_plan(here, catalog(model("small", 1, file)), [GGUF], Request())
    assert plan.expected_tokens_per_s == pytest.approx(1 / (0.5e9 / 70e9 + 10 * 100e-6))
    assert plan.tokens_per_s == 59.4
    assert "speed    about 123 tokens/s expected, 59 measured" in explain(plan)
    slow = make_plan(replace(here, reached={file.key: 5.0}), catalog(model("small", 1, file)), [GGUF], Request("small"))
    assert slow.slow
