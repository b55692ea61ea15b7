"""Every seeded mistake of mutants.py is caught by the check named for it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from tests.metal import mutants  # noqa: E402
from tests.metal.addresses import complaints, libclang  # noqa: E402
from tests.metal.mutants import CHECKS, MUTANTS, Mutant, caught  # noqa: E402
from tests.metal.simulator import Simulator, generate_launch  # noqa: E402

SEEDED = [m for m in MUTANTS if m.caught_by != "clang"]
MISTYPED = [m for m in MUTANTS if m.caught_by == "clang"]


@pytest.fixture(scope="module")
def broken(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Simulator]:
    """One simulator per mistake, all compiling in the background."""
    simulators = {}
    for mutant in SEEDED:
        simulators[mutant.what] = one = simulator.with_texts(mutant.texts())
        with contextlib.suppress(AssertionError):
            CHECKS[mutant.check](one.prepare)
    return simulators


@pytest.mark.parametrize("mutant", SEEDED, ids=lambda m: m.what)
def test_a_seeded_mistake_is_caught(mutant: Mutant, broken: dict[str, Simulator]) -> None:
    with pytest.raises(AssertionError) as failure:
        CHECKS[mutant.check](broken[mutant.what].launch)
    assert caught(mutant, str(failure.value)), f"by something else: {failure.value}"


@pytest.mark.parametrize("check", sorted({m.check for m in SEEDED}))
def test_the_same_check_passes_without_the_mistake(check: str, simulator: Simulator) -> None:
    CHECKS[check](simulator.launch)


@pytest.mark.skipif(libclang() is None, reason="the package libclang is not installed")
@pytest.mark.parametrize("mutant", MISTYPED, ids=lambda m: m.what)
def test_a_wrong_address_space_is_caught(mutant: Mutant) -> None:
    launches = []

    def record(launch):  # type: ignore[no-untyped-def]
        launches.append(launch)
        return [mx.zeros(shape, dtype) for shape, dtype in zip(launch.output_shapes, launch.output_dtypes, strict=True)]

    for check in ("attend", "pack"):
        with contextlib.suppress(AssertionError):
            CHECKS[check](record)
    ((name, text),) = mutant.texts().items()
    launch = next(launch for launch in launches if launch.kernel == name)
    assert complaints(generate_launch(launch)) == []
    assert complaints(generate_launch(launch, text)) != []


def test_the_table_in_the_readme_is_this_one() -> None:
    readme = (Path(__file__).parent / "README.md").read_text(encoding="utf-8")
    assert mutants.table() in readme, "run: python -m tests.metal.mutants"


def test_there_are_at_least_15_mutants() -> None:
    assert len(MUTANTS) >= 15
