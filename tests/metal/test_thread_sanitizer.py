"""On demand: the kernels under ThreadSanitizer, which also finds races between threadgroups in device memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from tests.metal.conftest import FULL  # noqa: E402
from tests.metal.mutants import CHECKS, MUTANTS  # noqa: E402
from tests.metal.simulator import Simulator, SimulatorError, compiler  # noqa: E402

pytestmark = [
    pytest.mark.skipif(not FULL, reason="runs with `EDGEINFER_METAL_FULL=1 pytest tests/metal`"),
    pytest.mark.skipif(compiler() is None, reason="no C++ compiler"),
    pytest.mark.skipif(mx.metal.is_available(), reason="a GPU is here: the kernels run on it"),
]
KINDS = ["attend", "attend, splits", "pack", "head"]


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    return Simulator(tmp_path_factory.mktemp("thread_sanitizer"), "thread")


@pytest.mark.parametrize("check", KINDS)
def test_a_kernel_has_no_data_race(check: str, watched: Simulator) -> None:
    CHECKS[check](watched.launch)


def test_a_missing_barrier_is_a_race(watched: Simulator) -> None:
    mutant = next(m for m in MUTANTS if m.what == "no barrier before a row is joined")
    with pytest.raises(SimulatorError, match="data race"):
        CHECKS["attend"](watched.with_texts(mutant.texts()).launch)


def test_two_threadgroups_that_write_one_element_race(watched: Simulator) -> None:
    mutant = replace(
        MUTANTS[0],
        kernel="pack_rows",
        old="if (lane == 0)\n    rows[at",
        new="if (lane == unit % 32) rows[0] = 0;\n  if (lane == 0)\n    rows[at",
    )
    with pytest.raises(SimulatorError, match="data race"):
        CHECKS["pack"](watched.with_texts(mutant.texts()).launch)
