"""The sampler gives the tabled picks on every processor, whichever arithmetic decides."""

from __future__ import annotations

import numpy as np
import pytest

from edgeinfer.decode import arithmetic, sampler
from tests import picks


def test_every_pick_equals_the_table() -> None:
    assert picks.differing() == []


def test_close_picks_do_not_depend_on_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a large slack, arithmetic.py decides every pick."""
    monkeypatch.setattr(sampler, "EXP_SLACK", 0.05)
    monkeypatch.setattr(sampler, "LOG_SLACK", 50.0)
    assert picks.differing() == []


def test_picks_do_not_depend_on_the_last_bits_of_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    exp, log = np.exp, np.log
    monkeypatch.setattr(np, "exp", lambda x: exp(x) * (1 + 3e-7 * np.sin(np.arange(len(x)))).astype(x.dtype))
    monkeypatch.setattr(np, "log", lambda x: log(x) * (1 + 1e-15))
    assert picks.differing() == []


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("LN2_LOW", 1.9082150e-10), ("EXP_TERMS", 12), ("LOG_TERMS", 9), ("ROOT_HALF", 0.75), ("LOG2_E", 1.5)],
)
def test_a_changed_constant_changes_a_pick_of_the_table(
    monkeypatch: pytest.MonkeyPatch, name: str, wrong: float
) -> None:
    monkeypatch.setattr(arithmetic, name, wrong)
    assert picks.differing()


def test_exp_and_log_are_accurate() -> None:
    x = np.random.default_rng(0).uniform(-690, 690, 100_000)
    np.testing.assert_allclose(arithmetic.exp(x), np.exp(x), rtol=5e-16)
    for y in (np.exp(x), np.random.default_rng(1).uniform(0, 2, 100_000), np.array([1 - 2.0**-53, 1.0])):
        np.testing.assert_allclose(arithmetic.log(y), np.log(y), rtol=5e-16)
