from __future__ import annotations

import json
import random
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from edgeinfer.decode.policy import calibrate as calibration
from edgeinfer.decode.policy.calibrate import CostStore, calibrate, cost_key
from edgeinfer.decode.policy.costs import Costs, RowCosts, interpolate
from edgeinfer.types import DraftsWith
from edgeinfer.window import WindowPolicy


def test_rows_between_measured_ones_are_interpolated_and_beyond_them_extrapolated() -> None:
    points = {1: 1.0, 2: 1.5, 4: 1.7, 8: 3.3}
    assert [interpolate(points, n) for n in (1, 2, 3, 4, 6)] == pytest.approx([1.0, 1.5, 1.6, 1.7, 2.5])
    assert interpolate(points, 10) == pytest.approx(4.1)
    assert interpolate({1: 2.0}, 3) == 6.0
    falling = {1: 1.0, 3: 2.72, 4: 1.85}  # kernels work on four rows at a time
    assert interpolate(falling, 5) == pytest.approx(1.85 + 0.85 / 3)


def test_a_machine_that_slows_down_keeps_its_ratios() -> None:
    costs = Costs(RowCosts({1: 0.01, 2: 0.015, 4: 0.02}), 4)
    for _ in range(100):
        costs.observe("verify", 1, 0.03)
        costs.observe("verify", 4, 0.06)
    assert costs.unit_s == pytest.approx(0.03, rel=0.05)
    assert costs.ratio("verify", 4) == pytest.approx(2.0, rel=0.05)


def test_ratios_follow_round_times_despite_noise_and_outliers() -> None:
    rng = random.Random(1)
    costs = Costs(RowCosts({1: 0.01, 2: 0.011}), 2)
    for index in range(600):
        slow = 20.0 if index % 37 == 0 else 1.0
        costs.observe("verify", 1, 0.010 * rng.uniform(0.9, 1.1) * slow)
        costs.observe("verify", 2, 0.018 * rng.uniform(0.9, 1.1))
    assert costs.unit_s == pytest.approx(0.010, rel=0.12)
    assert costs.ratio("verify", 2) == pytest.approx(1.8, rel=0.12)


def test_the_first_plain_rounds_correct_a_stale_prior_at_once() -> None:
    costs = Costs(RowCosts({1: 0.001, 2: 0.002}), 2)
    for _ in range(4):
        costs.observe("verify", 1, 0.01)
    assert costs.unit_s > 0.007


COSTS = RowCosts({1: 0.01, 4: 0.02}, {1: 0.008}, {2: 0.012}, 0.003, 0.0)


def test_stored_costs_are_read_back_and_bad_ones_are_ignored(tmp_path: Path) -> None:
    store = CostStore(tmp_path / "costs")
    key = cost_key("demo", 1, "engine 2")
    assert store.load(key) is None
    store.save(key, COSTS)
    assert store.load(key) == COSTS
    assert cost_key("demo", 1, "engine 3") != key
    file = tmp_path / "costs" / f"{key}.json"
    good = json.loads(file.read_text())
    for bad in ("", "[]", "{}", json.dumps(good | {"verify": {"1": -1}}), json.dumps(good | {"measured": 0})):
        file.write_text(bad)
        assert store.load(key) is None


def test_costs_measured_on_a_busy_machine_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, hour, week = CostStore(tmp_path), 3600.0, 7 * 24 * 3600.0
    now = time.time()
    for busy, later, stays in [(True, 60.0, True), (True, hour, False), (False, hour, True), (False, week + 60, False)]:
        monkeypatch.setattr(calibration, "time", lambda: now)
        store.save("key", COSTS, busy=busy)
        monkeypatch.setattr(calibration, "time", lambda at=now + later: at)
        assert (store.load("key") == COSTS) is stays, (busy, later)


def test_a_store_that_cannot_be_written_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    CostStore(tmp_path / "file" / "costs").save("key", COSTS)


class Ticking:
    """A model whose rounds take known times on a simulated clock."""

    drafts_with: DraftsWith = "early-exit"
    exact_rows = None
    n_threads = 1
    chunk_rows = 256

    def __init__(self, plain_s: float) -> None:
        self.now, self.plain_s, self.closed, self.open_rounds = 0.0, plain_s, 0, 0
        self.tokenizer = self
        self.n_vocab = 50
        self.length = 0
        self._drafted = 0

    def clock(self) -> float:
        return self.now

    def new_cache(self, policy: WindowPolicy) -> Ticking:
        self.policy = policy
        return self

    def begin(self, rows: int) -> Ticking:
        self.open_rounds += 1
        self._drafted = 0
        self._ended = False
        return self

    def draft(self, token: int) -> Ticking:
        self.now += (0.3 if self._drafted else 0.4) * self.plain_s
        self._drafted += 1
        return self

    def numpy(self) -> npt.NDArray[np.float32]:
        return np.zeros(2, np.float32)

    def argmax(self) -> int:
        return 0

    def verify(self, tokens: list[int], n_rows: int | None = None) -> list[Ticking]:
        assert max(tokens) < self.n_vocab
        if n_rows is not None:  # a chunk of a prompt
            self.now += 0.4 * self.plain_s * len(tokens)
            return [self] * n_rows
        self.now += self.plain_s * (1.0 + 0.5 * (len(tokens) - 1) - 0.25 * self._drafted)
        return [self] * len(tokens)

    def commit(self, n: int) -> None:
        self.length += n
        self.open_rounds -= 1
        self._ended = True

    def rollback(self) -> None:
        self.open_rounds -= not self._ended
        self._ended = True

    def close(self) -> None:
        self.closed += 1


def test_calibration_measures_each_part_and_closes_its_cache() -> None:
    model = Ticking(plain_s=0.001)
    costs = calibrate(model, max_rows=16, budget_s=0.5, clock=model.clock)  # type: ignore[arg-type]
    assert costs.verify_s[1] == pytest.approx(0.001)
    assert costs.verify_s[8] == pytest.approx(0.0045)
    assert costs.back_s[2] == pytest.approx(0.001)
    assert costs.back_short_s[4] == pytest.approx(0.001 * (2.5 - 0.75))
    assert costs.exit_draft_s == pytest.approx(0.0003)
    assert costs.first_draft_s == pytest.approx(0.0004)
    assert model.closed == 1
    assert model.open_rounds == 0
    assert model.length == 216


def test_calibration_of_a_slow_model_stops_early_but_covers_one_and_several_rows() -> None:
    model = Ticking(plain_s=0.4)
    costs = calibrate(model, max_rows=16, budget_s=0.8, clock=model.clock)  # type: ignore[arg-type]
    assert model.length == 24  # a longer context would cost more time than it is worth
    assert model.now < 0.4 * 0.4 * 24 + 6.0
    assert {1, 2} <= set(costs.verify_s)
    assert costs.back_s
    assert costs.back_short_s


def test_calibration_of_a_draft_model_measures_its_plain_rounds() -> None:
    model = Ticking(plain_s=0.001)
    costs = calibrate(model, max_rows=1, budget_s=0.05, clock=model.clock)  # type: ignore[arg-type]
    assert costs.verify_s == {1: pytest.approx(0.001)}

    model = Ticking(plain_s=0.001)
    model.drafts_with = ""
    costs = calibrate(model, max_rows=1, budget_s=0.05, clock=model.clock)  # type: ignore[arg-type]
    assert costs.verify_s == {1: pytest.approx(0.001)}
    assert not costs.back_s


def test_calibration_measures_the_largest_number_of_rows_that_the_plan_allows() -> None:
    model = Ticking(plain_s=0.001)
    costs = calibrate(model, max_rows=5, budget_s=0.1, clock=model.clock)  # type: ignore[arg-type]
    assert set(costs.verify_s) == {1, 2, 3, 4, 5}
    assert max(costs.back_s) == max(costs.back_short_s) == 5


def test_calibration_never_exceeds_the_rows_that_the_plan_allows() -> None:
    model = Ticking(plain_s=0.001)
    costs = calibrate(model, max_rows=3, budget_s=0.1, clock=model.clock)  # type: ignore[arg-type]
    assert set(costs.verify_s) == {1, 2, 3}
