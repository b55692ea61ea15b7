"""Every seeded mistake is caught by the check that the table in tests/README.md names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.errors import EdgeInferError
from tests.conformance.backends import available, missing_gguf, missing_mlx, write_model
from tests.conformance.mutants import MUTANTS, Mutant
from tests.conformance.plain import Case
from tests.executorch.exported import missing as missing_executorch

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture
def case(mutant: Mutant, tmp_path: Path) -> Iterator[Case]:
    if mutant.subject not in available():
        pytest.skip(missing_gguf() or missing_mlx() or missing_executorch())
    path = write_model(mutant.subject, tmp_path)
    model = mutant.subject.open(path)
    yield Case(mutant.subject, model, path)
    model.close()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_seeded_mistake_is_caught(case: Case, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.patch(monkeypatch)
    with pytest.raises((AssertionError, EdgeInferError, pytest.fail.Exception)):
        mutant.check(case)


def test_the_readme_lists_every_mutant() -> None:
    text = README.read_text(encoding="utf-8")
    for mutant in MUTANTS:
        row = f"| {mutant.name} | `{check_name(mutant)}` |"
        assert row in text, row


def check_name(mutant: Mutant) -> str:
    check = mutant.check
    return getattr(check, "func", check).__name__
