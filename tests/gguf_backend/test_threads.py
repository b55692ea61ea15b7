"""The number of threads, chosen from made-up times."""

from __future__ import annotations

from collections import Counter

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

from edgeinfer.backends.gguf.threads import _choose


def choose(times: dict[int, list[float]]) -> tuple[int, Counter[int]]:
    asked: Counter[int] = Counter()

    def seconds(n_threads: int) -> float:
        asked[n_threads] += 1
        return times[n_threads][min(asked[n_threads], len(times[n_threads])) - 1]

    return _choose(sorted(times), seconds), asked


def test_more_threads_where_they_help() -> None:
    assert choose({2: [0.004], 3: [0.003], 4: [0.002]})[0] == 4


def test_fewer_where_they_pay() -> None:
    assert choose({2: [0.0020], 3: [0.0022], 4: [0.0024]})[0] == 2


def test_the_most_of_those_that_are_about_equal() -> None:
    assert choose({2: [0.0100], 3: [0.0101], 4: [0.0104]})[0] == 4


def test_one_hiccup_does_not_decide() -> None:
    assert choose({1: [0.004], 2: [0.002, 0.002, 0.009, 0.002]})[0] == 2


def test_the_first_try_may_be_slow_as_it_starts_the_threads() -> None:
    assert choose({1: [0.004], 2: [0.02, 0.002]})[0] == 2


def test_threads_that_are_fast_only_now_and_then_are_not_chosen() -> None:
    """Beside another program: the second thread mostly waits for a core."""
    assert choose({1: [0.004], 2: [0.007, 0.0025, 0.007, 0.007, 0.0025, 0.007, 0.007]})[0] == 1


def test_threads_that_wait_for_a_busy_core_are_not_tried_again() -> None:
    assert choose({1: [0.004], 2: [0.02]}) == (1, {1: 7, 2: 3})
    chosen, asked = choose({1: [0.004], 2: [0.5]})
    assert chosen == 1
    assert asked == {1: 1, 2: 1}


def test_a_large_model_is_tried_once_with_each_number() -> None:
    assert choose({4: [0.5], 7: [0.4], 8: [0.3]})[1] == {4: 1, 7: 1, 8: 1}
