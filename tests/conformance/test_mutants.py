"""The suite broken on purpose: every seeded mistake is caught by the check that names it in the table of the README."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.errors import EdgeInferError
from tests.conformance.backends import SUBJECTS, write_model
from tests.conformance.mutants import MUTANTS, Mutant
from tests.conformance.plain import Case

README = Path(__file__).parents[1] / "README.md"


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    path = write_model(SUBJECTS[0], tmp_path_factory.mktemp("tiny"))
    model = SUBJECTS[0].open(path)
    yield Case(SUBJECTS[0], model, path)
    model.close()


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_is_caught(case: Case, mutant: Mutant, monkeypatch: pytest.MonkeyPatch) -> None:
    mutant.patch(monkeypatch)
    case.answers.clear()
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
