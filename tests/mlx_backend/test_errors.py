"""The errors shown when MLX or Metal fails, and requests that are refused before MLX."""

from __future__ import annotations

import dataclasses

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

from edgeinfer.backends.mlx import BACKEND  # noqa: E402
from edgeinfer.backends.mlx.cache import MlxCache  # noqa: E402
from edgeinfer.backends.mlx.facts import FACTS  # noqa: E402
from edgeinfer.backends.mlx.rows import engine_error  # noqa: E402
from edgeinfer.catalog import load_catalog  # noqa: E402
from edgeinfer.device import named  # noqa: E402
from edgeinfer.errors import EngineError, NoPlanError, RewindError, UsageError  # noqa: E402
from edgeinfer.plan import Request, make_plan  # noqa: E402
from edgeinfer.prefill import prefill  # noqa: E402
from edgeinfer.window import WindowPolicy  # noqa: E402
from tests.mlx_backend.families import FAMILIES, build, open_model  # noqa: E402

POLICY = WindowPolicy(window=32, sink=4, block=8, limit=128)


@pytest.fixture(scope="module")
def ring() -> MlxCache:
    return open_model(build(FAMILIES["llama"]), 3).new_cache(POLICY)


def test_metal_out_of_memory_says_what_to_lower() -> None:
    error = engine_error(
        RuntimeError(
            "[METAL] Command buffer execution failed: Insufficient Memory (kIOGPUCommandBufferCallbackErrorOutOfMemory)"
        )
    )
    assert isinstance(error, EngineError)
    assert "OutOfMemory" in str(error) and "\n" not in str(error)
    assert "--context" in error.hint


def test_other_errors_are_cut_to_their_first_line() -> None:
    assert str(engine_error(ValueError("shapes differ\nand more"))) == "MLX: shapes differ"


def test_a_plan_over_its_budget_is_never_loaded(tmp_path: object) -> None:
    device = named("macbook-air-m1-8gb")
    plan = make_plan(device, load_catalog(), [FACTS], Request(backend="mlx"))
    over = dataclasses.replace(plan, budget_bytes=plan.estimate.total_bytes - 5_000_000)
    with pytest.raises(NoPlanError, match="5 MB over"):
        BACKEND.load(over, tmp_path)  # type: ignore[arg-type]


def test_misuse_is_refused_and_the_cache_stays_usable(ring: MlxCache) -> None:
    row = prefill(ring, [1, 2, 3, 4, 5]).numpy()
    step = ring.begin(2)
    with pytest.raises(EngineError, match="round is open"):
        ring.begin(1)
    with pytest.raises(EngineError, match=r"verify of 3 rows: .* 1 to 2 rows"):
        step.verify([1, 2, 3])
    with pytest.raises(EngineError, match="in a round of 0"):
        step.commit(1)
    step.rollback()
    step.rollback()
    with pytest.raises(EngineError, match="verify of 1 rows"):
        step.verify([1])
    with pytest.raises(UsageError, match="1 to 123 positions are left"):
        prefill(ring, [1] * 124)
    with pytest.raises(RewindError):
        ring.rewind(6)
    ring.rewind(0)
    assert (prefill(ring, [1, 2, 3, 4, 5]).numpy() == row).all()
    ring.close()
    ring.close()


def test_doctor_names_the_kernels_and_those_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeinfer.backends.mlx import kernels

    assert BACKEND.report()["Metal kernels"] == "none"  # no Metal here
    chosen = kernels.Kernels(frozenset({"attend"}), failed={"pack_rows": "differs from its twin"})
    monkeypatch.setattr(kernels, "choose_kernels", lambda: chosen)
    assert BACKEND.report()["Metal kernels"] == "attend; pack_rows left out: differs from its twin"
