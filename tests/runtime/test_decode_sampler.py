"""The sampler of the phone runtime picks the same tokens as Python's, and its arithmetic gives the same bits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from edgeinfer.decode import noise
from edgeinfer.decode.sampler import Sampler
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.types import Sampling
from tests import picks
from tests.runtime.built import COMPILER
from tests.runtime.decode_library import CppSampler, at, of_doubles

pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


def differing(library: ctypes.CDLL) -> list[str]:
    def pick(case: picks.Case) -> int:
        sampler = CppSampler(library, case.sampling)
        token = sampler.pick(case.row, case.index, case.context)
        sampler.close()
        return token

    exp, log = (partial(of_doubles, library, name) for name in ("check_exp", "check_log"))
    return picks.differing(pick, exp, log)


def test_noise_has_the_same_bits(library: ctypes.CDLL) -> None:
    tokens = np.arange(1000)
    for seed, index in ((0, 0), (-1, 5), (1 << 63, 100_000)):
        out = np.empty(1000)
        mask = (1 << 64) - 1
        library.check_uniform(
            ctypes.c_uint64(seed & mask), ctypes.c_uint64(index), ctypes.c_int64(1000), at(tokens), at(out)
        )
        assert out.tobytes() == noise.uniform(seed, index, tokens).tobytes()


def test_every_pick_equals_the_table(library: ctypes.CDLL) -> None:
    assert differing(library) == []


@pytest.mark.parametrize("seed", range(4))
def test_picks_from_a_large_vocabulary_are_the_same(library: ctypes.CDLL, seed: int) -> None:
    row = (np.random.default_rng(seed).standard_normal(151_936) * 2.5).astype(np.float32)
    row[seed * 1000 : seed * 1000 + 20] += 12
    for how in (Sampling(seed=seed), Sampling(temperature=0.8, top_p=0.95), Sampling(top_k=1000, top_p=0.99)):
        sampler = CppSampler(library, how)
        for index in range(20):
            assert sampler.pick(row, index, ()) == Sampler(how).pick(row, index, ())
        sampler.close()


MISTAKES = {
    "the multiplier of the noise": ("noise.h", "0xBF58476D1CE4E5B9", "0xBF58476D1CE4E5BB"),
    "the step of the noise": ("noise.h", "0x9E3779B97F4A7C15", "0x9E3779B97F4A7C17"),
    "a factorial": ("arithmetic.h", "720,", "721,"),
    "ln 2": ("arithmetic.h", "2977044471.0", "2977044571.0"),
    "the series of the logarithm": ("arithmetic.h", "1.0 / (2 * k + 1)", "1.0 / (2 * k + 2)"),
    "a nucleus without its last token": ("sampler.cpp", "  kept_.resize(n);", "  kept_.resize(n > 1 ? n - 1 : n);"),
    "a penalty that adds": ("sampler.cpp", "logit / penalty : logit * penalty", "logit * penalty : logit / penalty"),
    "ties by the higher id": ("sampler.cpp", "a.id < b.id", "a.id > b.id"),
    "a bound that is too low": ("sampler.cpp", "1.01 * portable_exp(-i - best)", "0.1 * portable_exp(-i - best)"),
    "the temperature": ("sampler.cpp", "1.0 / sampling_.temperature)", "1.05 / sampling_.temperature)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_table_finds_a_seeded_mistake(library_with: Callable[..., ctypes.CDLL], mistake: str) -> None:
    assert differing(library_with(*MISTAKES[mistake]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_numbers_are_refused(library: ctypes.CDLL, bad: float) -> None:
    row = np.array([0, 1, bad, 2], np.float32)
    with pytest.raises(EngineError) as by_cpp:
        CppSampler(library, Sampling()).pick(row, 0, ())
    with pytest.raises(EngineError) as by_python:
        Sampler(Sampling()).pick(row, 0, ())
    assert str(by_cpp.value) == str(by_python.value)


@pytest.mark.parametrize(
    "how",
    [
        Sampling(temperature=-1.0),
        Sampling(temperature=1e-9),
        Sampling(temperature=np.nan),
        Sampling(top_k=-1),
        Sampling(top_p=0.0),
        Sampling(min_p=2.0),
        Sampling(repeat_penalty=0.0),
        Sampling(repeat_last_n=-1),
        Sampling(presence_penalty=3.0),
    ],
)
def test_settings_out_of_range_are_refused_in_the_same_words(library: ctypes.CDLL, how: Sampling) -> None:
    with pytest.raises(UsageError) as by_cpp:
        CppSampler(library, how)
    with pytest.raises(UsageError) as by_python:
        Sampler(how)
    assert str(by_cpp.value) == str(by_python.value)
