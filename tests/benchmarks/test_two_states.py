"""The fit recovers the two states of prompt lookup from matches drawn from known states."""

from __future__ import annotations

import random

import pytest

from benchmarks.two_states import Seen, TwoStates, fit, log_loss

KNOWN = TwoStates([[0.30, 0.10], [0.60, 0.40]], [[0.80, 0.50], [0.95, 0.85]], (0.7, 0.3), (0.97, 0.98))
START = TwoStates([[0.5, 0.3], [0.5, 0.3]], [[0.7, 0.6], [0.8, 0.7]])


def drawn(n_answers: int, length: int, seed: int) -> list[list[Seen]]:
    rng = random.Random(seed)
    answers = []
    for _ in range(n_answers):
        copying = rng.random() < KNOWN.start[1]
        answer = []
        for _ in range(length):
            row, fork = rng.randrange(2), rng.randrange(2)
            rates = KNOWN.copying if copying else KNOWN.new_text
            answer.append(Seen(row, fork, rng.random() < rates[row][fork]))
            copying ^= rng.random() > KNOWN.stay[copying]
        answers.append(answer)
    return answers


def test_the_fit_finds_the_states_without_labels() -> None:
    found = fit(drawn(150, 200, seed=1), START)
    for row in range(2):
        assert found.new_text[row] == pytest.approx(KNOWN.new_text[row], abs=0.03)
        assert found.copying[row] == pytest.approx(KNOWN.copying[row], abs=0.03)
    assert found.stay == pytest.approx(KNOWN.stay, abs=0.01)
    assert found.start == pytest.approx(KNOWN.start, abs=0.1)


def test_a_fit_explains_other_answers_of_the_same_states_better() -> None:
    unseen = drawn(50, 200, seed=2)
    fitted = log_loss(unseen, fit(drawn(150, 200, seed=1), START))
    assert log_loss(unseen, KNOWN) == pytest.approx(fitted, abs=0.002)
    assert fitted < log_loss(unseen, START) - 0.02


def test_a_fork_never_makes_a_match_more_likely_to_be_right() -> None:
    """By chance all 40 matches at forks were right, and half of 40 elsewhere."""
    answers = [[Seen(0, 0, at % 2 == 0), Seen(0, 1, hit=True)] for at in range(40)]
    found = fit(answers, TwoStates([[0.4, 0.3]], [[0.8, 0.7]]))
    for rates in (found.new_text[0], found.copying[0]):
        assert rates[0] >= rates[1]


def test_empty_answers_are_left_out() -> None:
    answers = drawn(20, 50, seed=3)
    assert fit([[], *answers, []], START, iterations=3) == fit(answers, START, iterations=3)
