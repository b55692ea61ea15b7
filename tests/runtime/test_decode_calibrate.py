"""Calibration is quick on slow and fast devices, and costs are kept for the same program and processor only."""

from __future__ import annotations

import ctypes
from ctypes import c_char_p, c_double, c_int32, c_int64
from pathlib import Path

import numpy as np
import pytest

from tests.runtime.built import COMPILER
from tests.runtime.decode_library import at

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")

MAX_ROWS = 16
KEY = "sha256:12 cores"


@pytest.fixture(autouse=True)
def returns_seconds(library: ctypes.CDLL) -> None:
    library.check_calibrate.restype = c_double


def verify_s(rows: int, drafts: int) -> float:
    """Like `SimulatedRounds` in decode_check.cpp."""
    return 0.004 + 0.0005 * (rows - 1) - 0.0001 * drafts


def calibrated(library: ctypes.CDLL, scale: float, *, has_exit: bool) -> tuple[list[np.ndarray], float]:
    out = np.zeros(3 * MAX_ROWS + 2)
    spent = library.check_calibrate(c_double(scale), c_int32(has_exit), c_int64(MAX_ROWS), at(out))
    return np.split(out, [MAX_ROWS, 2 * MAX_ROWS, 3 * MAX_ROWS]), spent


def test_every_number_of_rows_is_timed(library: ctypes.CDLL) -> None:
    (verify, back, back_short, draft), spent = calibrated(library, 1.0, has_exit=True)
    assert {rows: verify[rows - 1] for rows in range(1, 17) if verify[rows - 1]} == pytest.approx(
        {rows: verify_s(rows, 0) for rows in (1, 2, 3, 4, 6, 8, 12, 16)}
    )
    assert {rows: back[rows - 1] for rows in range(1, 17) if back[rows - 1]} == pytest.approx(
        {rows: verify_s(rows, rows) for rows in (1, 2, 4, 8)}
    )
    assert {rows: back_short[rows - 1] for rows in range(1, 17) if back_short[rows - 1]} == pytest.approx(
        {1: verify_s(1, 0), **{rows: verify_s(rows, rows - 1) for rows in (2, 4, 8)}}
    )
    assert draft.tolist() == pytest.approx([0.001, 0.0015])  # deeper ones, and the first of a round
    assert 0.5 < spent < 1.1


def test_without_an_exit_only_verifies_are_timed(library: ctypes.CDLL) -> None:
    (verify, back, back_short, draft), _ = calibrated(library, 1.0, has_exit=False)
    assert verify[0] and not back.any() and not back_short.any() and not draft.any()


def test_a_slow_device_times_each_kind_of_round_once(library: ctypes.CDLL) -> None:
    (verify, back, back_short, draft), spent = calibrated(library, 30.0, has_exit=True)
    assert verify[0] and verify[1:].any() and back[1:].any() and back_short[1:].any() and draft.all()
    assert spent < 30 * 0.004 * 25


def load(library: ctypes.CDLL, path: Path, key: str) -> np.ndarray | None:
    out = np.zeros(3 * MAX_ROWS + 2)
    found = library.check_load_costs(c_char_p(bytes(path)), c_char_p(key.encode()), c_int64(MAX_ROWS), at(out))
    return out if found else None


@pytest.mark.parametrize("has_exit", [False, True])
def test_costs_are_kept_for_the_same_key(library: ctypes.CDLL, tmp_path: Path, has_exit: bool) -> None:
    path = tmp_path / "model.costs"
    assert load(library, path, KEY) is None
    library.check_save_costs(bytes(path), KEY.encode(), c_double(1.0), c_int32(has_exit), c_int64(MAX_ROWS))
    kept = load(library, path, KEY)
    assert kept is not None
    assert kept.tolist() == np.concatenate(calibrated(library, 1.0, has_exit=has_exit)[0]).tolist()
    assert load(library, path, "sha256:8 cores") is None
    assert [file.name for file in tmp_path.iterdir()] == ["model.costs"]


def test_damaged_and_old_costs_are_measured_again(library: ctypes.CDLL, tmp_path: Path) -> None:
    path = tmp_path / "model.costs"
    library.check_save_costs(bytes(path), KEY.encode(), c_double(1.0), c_int32(1), c_int64(MAX_ROWS))
    lines = path.read_text().splitlines()
    for damaged in (
        lines[:-1],
        lines[:3],
        [],
        [*lines[:2], str(int(lines[2]) - 8 * 24 * 3600), *lines[3:]],
        [*lines[:2], str(int(lines[2]) + 3600), *lines[3:]],
        [*lines[:3], "verify 1 -1", *lines[3:]],
        [*lines[:3], "verify 1 nan", *lines[3:]],
        [*lines[:3], "verify 99999999 1", *lines[3:]],
        [*lines[:3], "other 1 1", *lines[3:]],
        [line for line in lines if not line.startswith("back ")],
        ["another format", *lines[1:]],
    ):
        path.write_text("\n".join(damaged) + "\n")
        assert load(library, path, KEY) is None


def test_a_folder_that_cannot_be_written_is_no_error(library: ctypes.CDLL, tmp_path: Path) -> None:
    path = tmp_path / "missing" / "model.costs"
    library.check_save_costs(bytes(path), KEY.encode(), c_double(1.0), c_int32(1), c_int64(MAX_ROWS))
    assert not list(tmp_path.iterdir())


def test_the_processor_has_a_name(library: ctypes.CDLL) -> None:
    out = ctypes.create_string_buffer(200)
    assert library.check_processor(out, c_int64(200)) > 3
