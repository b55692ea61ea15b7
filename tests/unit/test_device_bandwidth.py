"""The measured bandwidth: the best figure is kept, and one from a busy machine is replaced."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from edgeinfer.device import bandwidth as subject
from edgeinfer.device.bandwidth import Kept, Read, bandwidth, settle
from edgeinfer.device.devices import Devices

GB = 10**9
QUIET, BUSY = True, False
UNKNOWN = Devices({}, {}, {})  # no chip is known, so it is measured


def test_a_faster_measurement_replaces_a_slower_one() -> None:
    assert settle(Kept(8 * GB, 3, 1.0), Read(20 * GB, BUSY), now=2.0) == Kept(20 * GB, 0, 2.0)


def test_a_slower_measurement_confirms_only_on_a_quiet_machine() -> None:
    assert settle(Kept(20 * GB, 1, 1.0), Read(19 * GB, QUIET), now=2.0) == Kept(20 * GB, 2, 2.0)
    assert settle(Kept(20 * GB, 1, 1.0), Read(8 * GB, BUSY), now=2.0) == Kept(20 * GB, 1, 1.0)


def test_three_quiet_measurements_settle_the_figure_for_a_day() -> None:
    kept = settle(None, Read(20 * GB, QUIET), now=0.0)
    for n in range(3):
        assert not kept.is_settled(now=0.0), n
        kept = settle(kept, Read(20 * GB, QUIET), now=0.0)
    assert kept.is_settled(now=3600.0)
    assert not kept.is_settled(now=2 * 24 * 3600.0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Read]:
    """Results of the next measurements; the last one repeats."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    coming: list[Read] = []
    monkeypatch.setattr(subject, "measure", lambda *_: coming.pop(0) if len(coming) > 1 else coming[0])
    return coming


def plan_bandwidth() -> int:
    return bandwidth(UNKNOWN, "some chip", 24 * GB, 2, usable_bytes=20 * GB)[0]


def test_a_busy_first_run_does_not_decide_the_next_ones(reads: list[Read]) -> None:
    reads.append(Read(8 * GB, BUSY))
    assert plan_bandwidth() == 8 * GB
    reads[:] = [Read(20 * GB, QUIET)]
    assert plan_bandwidth() == 20 * GB
    reads[:] = [Read(9 * GB, BUSY)]
    assert plan_bandwidth() == 20 * GB


def test_a_busy_machine_that_looked_quiet_is_corrected_the_next_day(
    reads: list[Read], monkeypatch: pytest.MonkeyPatch
) -> None:
    reads.append(Read(8 * GB, QUIET))  # another program used memory bandwidth without processor time
    assert plan_bandwidth() == plan_bandwidth() == 8 * GB
    reads[:] = [Read(20 * GB, QUIET)]
    assert plan_bandwidth() == 8 * GB  # settled
    tomorrow = time.time() + 25 * 3600
    monkeypatch.setattr(time, "time", lambda: tomorrow)
    assert plan_bandwidth() == 20 * GB


def test_a_quiet_first_run_measures_several_times(reads: list[Read]) -> None:
    reads += [Read(8 * GB, QUIET), Read(20 * GB, QUIET), Read(19 * GB, QUIET)]
    assert plan_bandwidth() == 20 * GB


def test_each_machine_has_its_figure(reads: list[Read], tmp_path: Path) -> None:
    reads.append(Read(20 * GB, QUIET))
    plan_bandwidth()
    bandwidth(UNKNOWN, "another chip", 24 * GB, 2, usable_bytes=20 * GB)
    assert len(json.loads((tmp_path / "edgeinfer" / "memory-bandwidth.json").read_text())) == 2


BAD = [7, "x", {}, {"best_per_s": -1, "n_confirmed": 9, "measured": 1e12}, None]


@pytest.mark.parametrize("text", ["{", "[1]", *(json.dumps({"some chip, 2 cores, 22 GiB": bad}) for bad in BAD)])
def test_a_stored_figure_is_checked(reads: list[Read], tmp_path: Path, text: str) -> None:
    reads.append(Read(20 * GB, QUIET))
    file = tmp_path / "edgeinfer" / "memory-bandwidth.json"
    file.parent.mkdir()
    file.write_text(text)
    assert plan_bandwidth() == 20 * GB


def test_a_cache_that_cannot_be_written_raises_nothing(reads: list[Read], tmp_path: Path) -> None:
    reads.append(Read(20 * GB, QUIET))
    (tmp_path / "edgeinfer").write_text("a file where the folder should be")
    assert plan_bandwidth() == 20 * GB


def test_a_real_measurement_is_a_plausible_number() -> None:
    assert 10**8 < subject.measure(2, 32 << 20).per_s < 10**13


@pytest.mark.parametrize(("usable", "mib"), [(20 * GB, 64), (600 << 20, 32), (360 << 20, 16), (1 << 20, 1), (0, 1)])
def test_little_memory_is_measured_with_little(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, usable: int, mib: int
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[int] = []

    def measured(n_threads: int, n_bytes: int) -> Read:
        asked.append(n_bytes >> 20)
        return Read(20 * GB, QUIET)

    monkeypatch.setattr(subject, "measure", measured)
    bandwidth(UNKNOWN, "some chip", 24 * GB, 2, usable_bytes=usable)
    assert set(asked) == {mib}
