"""What `tune` decides before it teaches: the work for a time, the batch size for a memory, a draft's expected gain."""

from pathlib import Path

import pytest

from edgeinfer.errors import NoPlanError, UsageError
from edgeinfer.shape import LayerKv, ModelShape
from edgeinfer.tune.expect import Expected, best_depth, deepened, draft_cost, expected_speedup, layer_params
from edgeinfer.tune.work import (
    KeptWork,
    Pace,
    Sizes,
    Work,
    fit_memory,
    make_work,
    read_work,
    teaching_bytes,
    write_work,
)

SHAPE = ModelShape(
    "llama", n_layers=4, hidden=8, n_heads=2, n_ffn=16, n_vocab=32, limit=64, kv=(LayerKv(4, 1, 4),),
    n_params=4 * 576 + 2 * 256, n_active_params=4 * 576 + 256,
)  # fmt: skip
SIZES = Sizes(n_tokens=100, part_rows=10, step_rows=2)
NEEDS = {"n_ranked": 16, "n_depths": 4, "value_bytes": 4}


def test_a_third_of_the_time_is_text() -> None:
    work = make_work(SIZES, Pace(10.0, {"exit": 1.0}), 10)
    assert work == Work(SIZES, 20, {"exit": 400})  # 600 s: 20 parts of 10 s, then 400 steps of 1 s


def test_two_kinds_share_the_time_and_the_text() -> None:
    work = make_work(SIZES, Pace(10.0, {"exit": 1.0, "feature": 2.0}), 10)
    assert (work.n_parts, work.n_steps) == (20, {"exit": 200, "feature": 100})
    assert work.seconds(Pace(10.0, {"exit": 1.0, "feature": 2.0})) == 600


def test_a_text_is_seen_at_most_eight_times() -> None:
    work = make_work(SIZES, Pace(100.0, {"exit": 0.01}), 10)
    assert work.n_parts == 2
    assert work.n_steps == {"exit": 8 * 10 // 2}  # one part is held out, the other has 10 conversations


def test_given_text_takes_no_time_to_write() -> None:
    assert make_work(SIZES, Pace(10.0, {"exit": 1.0}), 10, n_given_rows=500) == Work(SIZES, 0, {"exit": 600})


def test_too_little_time_is_refused_with_the_minutes_needed() -> None:
    pace = Pace(30.0, {"exit": 3.0})
    with pytest.raises(UsageError, match="1 minutes are 0 steps; at least 40") as refused:
        make_work(SIZES, pace, 1)
    enough = float(refused.value.hint.removeprefix("--minutes "))
    assert make_work(SIZES, pace, enough).n_steps["exit"] >= 40


def test_batches_shrink_until_they_fit() -> None:
    whole = teaching_bytes(SHAPE, SIZES, **NEEDS)
    assert fit_memory(SHAPE, SIZES, whole, **NEEDS) == (SIZES, whole)
    smaller, n_bytes = fit_memory(SHAPE, SIZES, whole - 1, **NEEDS)
    assert (smaller.step_rows, smaller.part_rows) == (1, 5)
    assert n_bytes < whole


def test_too_little_memory_is_refused_with_the_memory_needed() -> None:
    with pytest.raises(NoPlanError, match=r"takes 0\.6 GB .* can give 0\.5 GB"):
        fit_memory(SHAPE, SIZES, 500_000_000, **NEEDS)


def test_work_is_continued_only_with_the_same_settings(tmp_path: Path) -> None:
    settings = {"model": "ab", "minutes": 10.0}
    kept = KeptWork(Work(SIZES, 3, {"exit": 50}), 600.0, "float32")
    assert read_work(tmp_path, settings) is None
    write_work(tmp_path, settings, kept)
    assert read_work(tmp_path, settings) == kept
    with pytest.raises(UsageError, match="with another minutes"):
        read_work(tmp_path, settings | {"minutes": 20.0})


def test_expected_speedup_by_hand() -> None:
    """Two drafts give 1 + .5 + .5 * .4 tokens in the time of three rows and two drafts."""
    assert expected_speedup([0.5, 0.4], 2, lambda rows: 1 + 0.1 * (rows - 1), 0.05) == pytest.approx(1.7 / 1.3)


def test_no_depth_pays_where_rows_are_expensive() -> None:
    assert best_depth([0.9, 0.9], lambda rows: float(rows), 0.05) == Expected(1.0, 0)
    assert best_depth([0.9, 0.9], lambda _: 1.0, 0.05).depth == 2
    assert best_depth([0.9, 0.9], lambda _: 1.0, 0.05, max_rows=2).depth == 1
    assert best_depth([0.9], lambda _: 1.0, 0.05, max_rows=1) == Expected(1.0, 0)


def test_depths_that_were_not_judged_count_like_the_last() -> None:
    assert deepened([0.5]) == (0.5, 0.5, 0.5, 0.5)
    assert deepened([0.6, 0.7]) == (0.6, 0.7, 0.7, 0.7)


def test_draft_cost_by_hand() -> None:
    assert layer_params(SHAPE) == 8 * 8 + 8 * 4 + 8 * 4 + 8 * 8 + 3 * 8 * 16  # q, k, v, output, three of the MLP
    whole = 4 * 576 + 256
    assert draft_cost(SHAPE, "exit", exit_layer=2, n_ranked=16) == pytest.approx((3 * 576 + 16 * 8) / whole)
    assert draft_cost(SHAPE, "feature", exit_layer=2, n_ranked=16) == pytest.approx((576 + 5 * 64 + 128) / whole)
