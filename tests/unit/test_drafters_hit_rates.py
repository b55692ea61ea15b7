"""Acceptance rates of prompt lookup: a few matches show whether the model copies."""

from __future__ import annotations

import math

import pytest

from edgeinfer.decode.drafters.hit_rates import HitRates


def after(hits: int, misses: int, *, length: int = 3, fork: int = 0) -> HitRates:
    rates = HitRates()
    for hit in [True] * hits + [False] * misses:
        rates.learn(length, fork, hit)
    return rates


def chance(rates: HitRates, length: int, fork: int = 0) -> float:
    return rates.acceptance(length, bytes([fork]))[0]


@pytest.mark.parametrize(("length", "middle"), [(1, 0.52), (3, 0.76), (6, 0.83), (12, 0.89)])
def test_a_few_matches_show_whether_the_model_copies(length: int, middle: float) -> None:
    """Also for match lengths that were not observed. `middle` is halfway between the rates of the two states."""
    assert chance(after(8, 0), length) > middle > chance(after(0, 4), length)


def test_a_change_of_state_shows_within_a_few_matches() -> None:
    rates = after(300, 0)
    assert chance(rates, 2) > 0.93
    for _ in range(4):
        rates.learn(3, 0, hit=False)
    assert chance(rates, 2) < 0.65
    for _ in range(10):
        rates.learn(3, 0, hit=True)
    assert chance(rates, 2) > 0.85


@pytest.mark.parametrize("hits", [0, 20])
def test_acceptance_rises_with_match_length_and_falls_with_forks(hits: int) -> None:
    rates = after(hits, 0)
    for length in (1, 2, 4, 8):
        assert chance(rates, length) < chance(rates, 2 * length)
        assert chance(rates, length, 0) > chance(rates, length, 1) >= chance(rates, length, 2)


def test_a_rate_is_conditional_on_the_drafts_before() -> None:
    """A hit suggests that the text is being copied, which makes the next hit more likely."""
    rates = after(3, 1)
    ahead = rates.acceptance(2, bytes(4))
    hits = [True, True]
    assert ahead[0] == chance(rates, 2)
    assert ahead[1] > chance(rates, 3)
    for hit in hits:
        rates.learn(2, 0, hit)
    assert chance(rates, 4) > ahead[2] > chance(after(3, 1), 4)


def test_rates_end_at_a_draft_that_is_rarely_reached() -> None:
    ahead = HitRates().acceptance(1, bytes([1] * 15))
    assert len(ahead) < 5
    assert math.prod(ahead) < 0.1 <= math.prod(ahead[:-1])


def test_rates_stay_between_0_and_1() -> None:
    for hit in (True, False):
        rates = HitRates()
        for _ in range(20_000):
            rates.learn(5, 1, hit)
        assert 0.0 < chance(rates, 5, 1) < 1.0
        rates.learn(5, 1, not hit)
        rates.begin_conversation()
        assert 0.0 < chance(rates, 5, 1) < 1.0
