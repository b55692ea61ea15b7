"""The vocabulary of a taught draft is chosen by its expected gain on this device, from stored times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer.catalog.entry import TaughtDraft
from edgeinfer.decode.drafting import without_hopeless
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.device import row_times
from edgeinfer.device.row_times import RowTimes, keep_row_times, read_row_times
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import read_draft_file
from edgeinfer.plan import Request
from edgeinfer.plan.taught import expected_speedup, sized, why_hopeless
from edgeinfer.shape import LayerKv, ModelShape
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny

SHAPE = ModelShape(
    architecture="llama", n_layers=8, hidden=64, n_heads=2, n_ffn=128, n_vocab=10_000, limit=512,
    kv=(LayerKv(8, 2, 32),), n_params=1_000_000, n_active_params=1_000_000,
)  # fmt: skip
LAYER = 64 * (4 * 64 + 3 * 128)  # weights of one layer
TAUGHT = TaughtDraft(
    "exit", "d", 1, "org/m", exit_layer=1, n_taps=0, n_ranked=8000, agreement=(0.6, 0.5),
    by_vocabulary=((500, (0.59, 0.49)), (8000, (0.6, 0.5))),
)  # fmt: skip
CHEAP_ROWS = {1: 1.0, 2: 1.0, 3: 1.0}


def test_the_expected_gain_of_a_draft_by_hand() -> None:
    assert expected_speedup(TAUGHT, SHAPE, RowTimes(CHEAP_ROWS, 0.1, 8000)) == pytest.approx((1 + 0.6 + 0.3) / 1.2)
    assert expected_speedup(TAUGHT, SHAPE, RowTimes({1: 1.0, 2: 1.5, 3: 3.0}, 0.1, 8000)) == pytest.approx(1.0)
    # drafts that were timed with a smaller head take longer with this one
    then, now = 2 * LAYER + 500 * 64, 2 * LAYER + 8000 * 64
    expected = (1 + 0.6) / (1.0 + 0.05 * now / then)  # then a second draft does not pay
    assert expected_speedup(TAUGHT, SHAPE, RowTimes(CHEAP_ROWS, 0.05, 500)) == pytest.approx(expected)


def test_a_smaller_vocabulary_is_taken_where_drafts_are_slow() -> None:
    slow, quick = RowTimes(CHEAP_ROWS, 0.3, 8000), RowTimes(CHEAP_ROWS, 0.001, 8000)
    assert (sized(TAUGHT, SHAPE, slow).n_ranked, sized(TAUGHT, SHAPE, slow).agreement) == (500, (0.59, 0.49))
    assert sized(TAUGHT, SHAPE, quick) == TAUGHT
    assert sized(TAUGHT, SHAPE, None) == TAUGHT
    assert sized(replace(TAUGHT, by_vocabulary=()), SHAPE, slow).n_ranked == 8000


def test_a_draft_is_hopeless_where_no_depth_pays_and_only_where_rows_were_measured() -> None:
    dear = RowTimes({1: 1.0, 2: 1.7, 3: 2.4}, 0.1, 8000)
    said = why_hopeless(TAUGHT, SHAPE, dear)  # 1.6 tokens in 1.8 plain rounds
    assert said == "at best 0.89x plain speed by the rows measured on this machine"
    assert why_hopeless(TAUGHT, SHAPE, RowTimes({1: 1.0, 2: 1.3, 3: 2.4}, 0.1, 8000)) == ""  # 1.6 in 1.4
    assert why_hopeless(TAUGHT, SHAPE, RowTimes({1: 1.0, 2: 1.7, 3: 1.5}, 0.1, 8000)) == ""  # 1.9 in 1.7
    assert why_hopeless(TAUGHT, SHAPE, RowTimes({1: 1.0, 2: 1.5, 3: 1.7}, 0.1, 8000))  # 1.6 in 1.6: too little
    assert why_hopeless(TAUGHT, SHAPE, None) == ""
    assert why_hopeless(replace(TAUGHT, agreement=()), SHAPE, dear) == ""


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(row_times, "is_busy", lambda: False)
    return tmp_path / "cache" / "edgeinfer" / "row-times.json"


def test_times_are_kept_by_machine(quiet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times = RowTimes({1: 0.01, 2: 0.02}, 0.001, 8000)
    keep_row_times("here", "a draft", times)
    monkeypatch.setattr(row_times, "is_busy", lambda: True)
    keep_row_times("here", "another", times)
    assert read_row_times("here") == {"a draft": times}
    assert read_row_times("elsewhere") == {}


@pytest.mark.parametrize("broken", ["", "[]", '{"here": 3}', '{"here": {"a": {"measured": "x"}}}'])
def test_a_damaged_file_gives_no_times(quiet: Path, broken: str) -> None:
    quiet.parent.mkdir(parents=True)
    quiet.write_text(broken)
    assert read_row_times("here") == {}


def test_old_and_impossible_times_are_left_out(quiet: Path) -> None:
    keep_row_times("here", "a", RowTimes({1: 0.01, 2: -0.02}, 0.001, 8000))
    keep_row_times("here", "b", RowTimes({1: 0.01, 2: 0.02}, 0.001, 8000))
    stored = json.loads(quiet.read_text())
    stored["here"]["b"]["measured"] -= 40 * 24 * 3600
    quiet.write_text(json.dumps(stored))
    assert read_row_times("here") == {}


def test_the_plan_takes_the_vocabulary_and_states_the_expected_gain(quiet: Path, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    write_tiny_draft(draft_beside(path), path, exit_layer=1, by_vocabulary=[[32, [0.5, 0.5]], [224, [0.5, 0.5]]])
    request = Request(model=str(path), backend="reference", context=512, force=True)
    before = edgeinfer.choose(request, offline=True)
    assert before.taught is not None and before.taught.n_ranked == 224
    assert "row times" not in before.speculation.note
    times = RowTimes({1: 1.0, 2: 1.0, 3: 1.0}, 0.3, 224)
    keep_row_times(before.device.machine, before.taught.key(before.artifact), times)
    after = edgeinfer.choose(request, offline=True)
    assert after.taught is not None and after.taught.n_ranked == 32
    assert "x alone, by row times of this machine)" in after.speculation.note
    assert after.estimate.draft_bytes < before.estimate.draft_bytes
    with edgeinfer.load(after) as model:
        assert model.generate("the rain", max_tokens=8).stats.emitted > 0
    keep_row_times(before.device.machine, before.taught.key(before.artifact), replace(times, draft_s=3.0))
    by_name = edgeinfer.choose(replace(request, speculation="exit"), offline=True)
    assert "(no gain is expected, by row times of this machine)" in by_name.speculation.note


@pytest.mark.parametrize("wrong", [3, [[1]], [[0, []]], [[32, [2.0]]], [[64, []], [32, []]]])
def test_the_list_of_vocabularies_in_a_file_is_checked(tmp_path: Path, wrong: object) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    write_tiny_draft(draft_beside(path), path, exit_layer=1, by_vocabulary=wrong)
    with pytest.raises(ArtifactError, match="not a usable draft"):
        read_draft_file(draft_beside(path))


DEAR_ROWS = {1: 0.01, 2: 0.02, 3: 0.03, 4: 0.04}


def test_a_hopeless_draft_is_left_out_unless_it_is_asked_for_by_its_kind(quiet: Path, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    write_tiny_draft(draft_beside(path), path, (1, 2, 4))
    request = Request(model=str(path), backend="reference", context=512, force=True)
    before = edgeinfer.choose(request, offline=True)
    assert before.taught is not None
    keep_row_times(before.device.machine, before.taught.key(before.artifact), RowTimes(DEAR_ROWS, 0.001, 8000))

    for asked in (request, replace(request, draft_file=str(draft_beside(path)))):
        plan = edgeinfer.choose(asked, offline=True)
        assert (plan.taught, plan.speculation.drafters) == (None, ("lookup", "early-exit"))
        why = "no taught draft: at best 0.74x plain speed by the rows measured on this machine"
        assert why in plan.speculation.note
        assert plan.estimate.draft_bytes == 0
    by_name = edgeinfer.choose(replace(request, speculation="feature"), offline=True)
    assert by_name.speculation.drafters == ("feature",)


def test_the_first_run_leaves_it_out_by_what_it_has_just_measured(quiet: Path, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    write_tiny_draft(draft_beside(path), path, (1, 2, 4))
    plan = edgeinfer.choose(Request(model=str(path), backend="reference", context=512, force=True), offline=True)

    def costs(verify_s: dict[int, float]) -> Costs:
        return Costs(RowCosts(verify_s, verify_s, verify_s, exit_draft_s=0.001), max_rows=4)

    left = without_hopeless(plan, costs(DEAR_ROWS))
    assert (left.taught, left.speculation.drafters) == (None, ("lookup",))
    assert without_hopeless(plan, costs({1: 0.01, 2: 0.0101, 3: 0.0102, 4: 0.0103})) is plan
    assert without_hopeless(plan, None) is plan
    named = replace(plan, speculation=replace(plan.speculation, mode="feature"))
    assert without_hopeless(named, costs(DEAR_ROWS)) is named


def test_an_early_exit_is_left_out_where_its_best_fixed_depth_would_win_too_little(quiet: Path, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    plan = edgeinfer.choose(Request(model=str(path), backend="reference", context=512, force=True), offline=True)
    assert plan.speculation.drafters == ("lookup", "early-exit")

    def costs(rows: float, draft_s: float) -> Costs:
        verify_s = {1: 0.01, 2: 0.01 * rows}
        return Costs(RowCosts(verify_s, verify_s, verify_s, exit_draft_s=draft_s), max_rows=2)

    assert without_hopeless(plan, costs(1.2, 0.003)) is plan  # 1.72 tokens in 1.5 plain rounds
    left = without_hopeless(plan, costs(1.3, 0.003))  # in 1.6
    assert (left.taught, left.speculation.drafters) == (None, ("lookup",))
    assert "not drafting: early-exit, at best 1.07x plain speed by the rows measured on this machine" in (
        left.speculation.note
    )
    assert without_hopeless(plan, costs(1.3, 0.0)) is plan  # the model that was opened has no early exit
    named = replace(plan, speculation=replace(plan.speculation, mode="early-exit"))
    assert without_hopeless(named, costs(1.3, 0.003)) is named
