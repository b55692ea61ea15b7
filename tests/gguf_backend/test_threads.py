"""The number of threads, chosen from made-up times, and when they end."""

from __future__ import annotations

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

import llama_cpp.llama_cpp as C

import edgeinfer
from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.model import EngineSettings, GgufModel
from edgeinfer.backends.gguf.threads import _choose
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.plan import Request
from edgeinfer.prefill import prefill
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny

of_gnu = pytest.mark.skipif(
    not hasattr(C._lib, "omp_pause_resource_all"), reason="llama.cpp was built without GNU's OpenMP"
)


def choose(times: dict[int, list[float]]) -> tuple[int, Counter[int]]:
    asked: Counter[int] = Counter()

    def seconds(n_threads: int) -> float:
        asked[n_threads] += 1
        return times[n_threads][min(asked[n_threads], len(times[n_threads])) - 1]

    return _choose(sorted(times), seconds), asked


def test_more_threads_are_chosen_where_they_help() -> None:
    assert choose({2: [0.004], 3: [0.003], 4: [0.002]})[0] == 4


def test_fewer_threads_are_chosen_where_they_are_faster() -> None:
    assert choose({2: [0.0020], 3: [0.0022], 4: [0.0024]})[0] == 2


def test_of_about_equal_numbers_the_largest_is_chosen() -> None:
    assert choose({2: [0.0100], 3: [0.0101], 4: [0.0104]})[0] == 4


def test_one_outlier_does_not_decide() -> None:
    assert choose({1: [0.004], 2: [0.002, 0.002, 0.009, 0.002]})[0] == 2


def test_a_slow_first_try_does_not_decide() -> None:
    assert choose({1: [0.004], 2: [0.02, 0.002]})[0] == 2


def test_a_number_of_threads_that_is_rarely_fast_is_not_chosen() -> None:
    """Beside another program, the second thread mostly waits for a core."""
    assert choose({1: [0.004], 2: [0.007, 0.0025, 0.007, 0.007, 0.0025, 0.007, 0.007]})[0] == 1


def test_threads_that_wait_for_a_busy_core_are_not_tried_again() -> None:
    assert choose({1: [0.004], 2: [0.02]}) == (1, {1: 7, 2: 3})
    chosen, asked = choose({1: [0.004], 2: [0.5]})
    assert chosen == 1
    assert asked == {1: 1, 2: 1}


def test_a_large_model_is_tried_once_with_each_number() -> None:
    assert choose({4: [0.5], 7: [0.4], 8: [0.3]})[1] == {4: 1, 7: 1, 8: 1}


def n_threads() -> int:
    """Of this process, those that Python did not start."""
    time.sleep(0.05)  # a thread that has ended for Python ends for the system a little later
    return len(list(Path("/proc/self/task").iterdir())) - threading.active_count()


@of_gnu
def test_a_model_that_rests_keeps_no_threads(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    model = GgufModel(llama.load(path), read_header(path), EngineSettings(4, "f16"))
    cache = model.new_cache(WindowPolicy(window=64, sink=8, block=16, limit=128))
    model.rest()
    before = n_threads()
    for _ in range(2):
        prefill(cache, [5])
        assert n_threads() == before + 3
        model.rest()
        assert n_threads() == before
    model.close()


@of_gnu
def test_threads_that_load_and_ask_in_turn_leave_each_other_the_cores(tmp_path: Path) -> None:
    request = Request(model=str(write_tiny(tmp_path / "tiny.gguf", Tiny())), backend="gguf", context=512, force=True)
    plan = replace(edgeinfer.choose(request), n_threads=3)
    before = n_threads()
    with edgeinfer.load(plan) as loaded, ThreadPoolExecutor(1) as other:
        assert n_threads() == before, "costs were measured, and an early exit was tested"
        for _ in range(2):
            other.submit(loaded.generate, [5, 6], max_tokens=3).result()
            assert n_threads() == before
            loaded.generate([5, 7], max_tokens=3)
            assert n_threads() == before
