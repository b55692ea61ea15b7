"""The sampler draws from exactly the distribution of its settings, and the key alone decides the draw."""

from __future__ import annotations

import math

import numpy as np
import pytest

from edgeinfer.decode.noise import SPAN, gumbel, uniform
from edgeinfer.decode.sampler import Sampler
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.types import GREEDY, Sampling

DRAWS = 20_000
ROW = np.array([2.0, 1.0, 0.5, 0.0, -1.0, -2.0, 1.5, 1.0], np.float32)


def test_the_default_is_the_models_own_distribution() -> None:
    """A truncation alone does not make sampling greedy."""
    ids, p = Sampler(Sampling()).probabilities(ROW, ())
    expected = np.exp(ROW - ROW.max()) / np.exp(ROW - ROW.max()).sum()
    np.testing.assert_allclose(p, expected[ids], rtol=1e-5)
    assert not Sampler(Sampling(top_p=0.9)).greedy
    assert Sampler(GREEDY).greedy


def exact(how: Sampling, row: np.ndarray, seen: tuple[int, ...] = ()) -> np.ndarray:
    """The distribution, step by step: penalty, temperature, top-k, top-p, min-p, over a sorted list."""
    logits = [float(x) for x in row]
    for token in set(seen):
        logits[token] = logits[token] / how.repeat_penalty if logits[token] > 0 else logits[token] * how.repeat_penalty
    weights = [math.exp(x / how.temperature) for x in logits]
    order = sorted(range(len(row)), key=lambda token: (-weights[token], token))
    if how.top_k:
        order = order[: how.top_k]
    total, reached, nucleus = sum(weights[token] for token in order), 0.0, []
    for token in order:
        nucleus.append(token)
        reached += weights[token] / total
        if how.top_p < 1 and reached >= how.top_p:
            break
    kept = [token for token in nucleus if weights[token] >= how.min_p * weights[order[0]]]
    out = np.zeros(len(row))
    out[kept] = [weights[token] for token in kept]
    return out / out.sum()


SETTINGS = {
    "temperature": Sampling(temperature=0.8),
    "hot": Sampling(temperature=3.0),
    "top-k": Sampling(temperature=1.0, top_k=3),
    "top-k-tie": Sampling(temperature=1.0, top_k=4),  # tokens 1 and 7 have the same logit: the lower id stays
    "top-p": Sampling(temperature=1.0, top_p=0.8),
    "min-p": Sampling(temperature=1.0, min_p=0.3),
    "all": Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1),
    "penalty": Sampling(temperature=1.0, repeat_penalty=1.5),
    "off": Sampling(temperature=1.0, top_k=100),
}


CHI_SQUARE = {1: 12.1, 2: 15.2, 3: 17.7, 4: 20.0, 5: 22.1, 6: 24.1, 7: 26.0}  # 99.95 %, by degrees of freedom


@pytest.mark.parametrize("name", SETTINGS)
def test_draws_follow_the_exact_distribution(name: str) -> None:
    how, context = SETTINGS[name], (0, 5, 0)
    expected = exact(how, ROW, context)
    sampler = Sampler(how)
    ids, shares = sampler.probabilities(ROW, context)
    assert np.allclose(shares, expected[ids], atol=1e-6)
    counts = np.bincount([sampler.pick(ROW, index, context) for index in range(DRAWS)], minlength=len(ROW))
    assert counts[expected == 0].sum() == 0
    live = expected > 0
    chi_square = ((counts - DRAWS * expected)[live] ** 2 / (DRAWS * expected[live])).sum()
    assert chi_square < CHI_SQUARE[live.sum() - 1]  # the noise is keyed, so the result is always the same
    assert np.abs(counts / DRAWS - expected).sum() / 2 < 0.01  # total variation


def test_a_wrong_temperature_fails_the_test() -> None:
    counts = np.bincount([Sampler(SETTINGS["temperature"]).pick(ROW, index, ()) for index in range(DRAWS)], minlength=8)
    assert np.abs(counts / DRAWS - exact(Sampling(temperature=0.84), ROW)).sum() / 2 > 0.01


def test_draws_at_different_seeds_and_indices_are_independent() -> None:
    a = np.array([Sampler(Sampling(temperature=1.0, seed=1)).pick(ROW, index, ()) for index in range(DRAWS)])
    b = np.array([Sampler(Sampling(temperature=1.0, seed=2)).pick(ROW, index, ()) for index in range(DRAWS)])
    p = exact(Sampling(temperature=1.0), ROW)
    for other in (b, np.roll(a, 1)):
        joint = np.histogram2d(a, other, bins=[range(9), range(9)])[0] / DRAWS
        assert np.abs(joint - np.outer(p, p)).sum() / 2 < 0.03


def test_the_key_alone_decides_the_draw() -> None:
    sampler = Sampler(Sampling(temperature=1.0, seed=5))
    forward = [sampler.pick(ROW, index, ()) for index in range(100)]
    backward = [Sampler(Sampling(temperature=1.0, seed=5)).pick(ROW, index, ()) for index in reversed(range(100))]
    assert forward == backward[::-1]
    assert forward != [Sampler(Sampling(temperature=1.0, seed=6)).pick(ROW, index, ()) for index in range(100)]


def test_truncation_does_not_change_the_noise_of_a_token() -> None:
    """A token that both settings keep gets the same noise."""
    row = np.linspace(0, 3, 1000, dtype=np.float32)
    wide, narrow = (Sampler(Sampling(temperature=1.0, top_k=k, seed=3)) for k in (900, 500))
    picks = [(wide.pick(row, index, ()), narrow.pick(row, index, ())) for index in range(300)]
    assert all(left == right for left, right in picks if left >= 500)
    assert sum(left >= 500 for left, _ in picks) > 200


def test_uniform_is_uniform_over_tokens_indices_and_seeds() -> None:
    tokens = np.arange(256)
    for values in (
        uniform(0, 0, np.arange(65536)),
        np.concatenate([uniform(0, index, tokens) for index in range(256)]),
        np.concatenate([uniform(seed, 7, tokens) for seed in range(256)]),
        np.concatenate([uniform(seed << 40, 7, tokens) for seed in range(256)]),
    ):
        counts = np.histogram(values, bins=256, range=(0, 1))[0]
        assert ((counts - 256) ** 2 / 256).sum() < 340  # 99.97 % of 255 degrees of freedom
        assert values.min() > 0 and values.max() < 1
        assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.012  # three standard errors
        assert len(np.unique(values)) == len(values)


def test_the_noise_never_changes() -> None:
    """A change of the hash changes every seeded answer, so it must be deliberate."""
    assert uniform(0, 0, np.array([0, 1])).tolist() == [0.13870941014555427, 0.9711020828012883]


def test_noise_cannot_raise_a_logit_by_more_than_its_span() -> None:
    noise = gumbel(uniform(1, 2, np.arange(100_000)))
    assert np.isfinite(noise).all()
    extremes = -np.log(-np.log(np.array([0.5 * 2.0**-52, 1 - 0.5 * 2.0**-52])))
    assert extremes[1] - extremes[0] < SPAN


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["top-k", "top-p", "all", "temperature", "min-p"])
def test_truncating_before_sorting_gives_the_same_draws(name: str, seed: int) -> None:
    how = SETTINGS[name]
    row = (np.random.default_rng(seed).standard_normal(20_011) * 3).astype(np.float32)
    row[100:400] = row[50]  # ties
    expected = exact(how, row)
    ids, shares = Sampler(how).probabilities(row, ())
    assert set(ids.tolist()) >= set(np.flatnonzero(expected > 1e-15).tolist())
    assert np.allclose(shares, expected[ids], rtol=1e-4, atol=1e-9)


def test_a_penalty_applies_to_greedy_decoding() -> None:
    assert Sampler(GREEDY).greedy
    penal = Sampler(Sampling(temperature=0.0, repeat_penalty=3.0))
    assert not penal.greedy
    assert penal.pick(ROW, 0, (3, 4)) == 0
    assert penal.pick(ROW, 0, (0,)) == 6  # 2.0 / 3 falls below 1.5
    assert ROW[0] == 2.0  # the engine's row is not changed


def test_a_penalty_covers_only_the_last_tokens() -> None:
    near = Sampler(Sampling(temperature=0.0, repeat_penalty=3.0, repeat_last_n=2))
    assert near.pick(ROW, 0, (0, 1, 2)) == 0
    assert near.pick(ROW, 0, (1, 0, 2)) == 6


def test_a_very_low_temperature_gives_the_argmax() -> None:
    sampler = Sampler(Sampling(temperature=0.001))
    assert {sampler.pick(ROW, index, ()) for index in range(200)} == {0}


def test_minus_infinity_is_never_drawn() -> None:
    row = np.full(1000, -np.inf, np.float32)
    row[[3, 7]] = 1.0
    for how in (Sampling(temperature=2.0), Sampling(temperature=2.0, top_p=0.9), Sampling(temperature=2.0, top_k=40)):
        assert {Sampler(how).pick(row, index, ()) for index in range(50)} == {3, 7}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_numbers_are_refused(bad: float) -> None:
    row = ROW.copy()
    row[2] = bad
    with pytest.raises(EngineError, match="cannot be sampled"):
        Sampler(Sampling(temperature=1.0)).pick(row, 0, ())


@pytest.mark.parametrize(
    "how",
    [
        Sampling(temperature=-1.0),
        Sampling(temperature=1e-9),
        Sampling(temperature=math.nan),
        Sampling(top_k=-1),
        Sampling(top_p=0.0),
        Sampling(top_p=1.5),
        Sampling(min_p=2.0),
        Sampling(repeat_penalty=0.0),
        Sampling(repeat_last_n=-1),
    ],
)
def test_settings_out_of_range_are_refused(how: Sampling) -> None:
    with pytest.raises(UsageError, match="must be"):
        Sampler(how)


def test_presence_and_frequency_penalties_count_only_the_answer() -> None:
    prompt, answer = (0, 0, 0), (6, 1, 6)
    present = Sampler(Sampling(temperature=0.0, presence_penalty=0.6))
    assert present.pick(ROW, 3, prompt + answer) == 0  # 6: 1.5 - 0.6, 1: 1.0 - 0.6, and 0 is no token of the answer
    ids, p = Sampler(Sampling(frequency_penalty=0.5)).probabilities(ROW, prompt + answer, 3)
    shares = dict(zip(ids.tolist(), np.log(p), strict=True))
    assert shares[0] - shares[6] == pytest.approx(2.0 - (1.5 - 2 * 0.5))
    assert shares[0] - shares[1] == pytest.approx(2.0 - (1.0 - 0.5))
    assert Sampler(Sampling(temperature=0.0, presence_penalty=2.0)).pick(ROW, 0, prompt) == 0


def test_a_bias_is_added_to_the_logit() -> None:
    assert Sampler(Sampling(temperature=0.0, logit_bias=((5, 4.5),))).pick(ROW, 0, ()) == 5
    assert Sampler(Sampling(temperature=0.0, logit_bias=((0, -100.0),))).pick(ROW, 0, ()) == 6
    assert not Sampler(Sampling(temperature=0.0, logit_bias=((0, 1.0),))).greedy
    assert ROW[0] == 2.0  # the row is not changed


def test_a_pick_needs_only_the_tokens_that_the_penalty_covers() -> None:
    context = tuple(range(8)) * 3
    for how in (
        Sampling(repeat_penalty=2.0, repeat_last_n=3),
        Sampling(presence_penalty=1.0),
        Sampling(repeat_penalty=2.0, repeat_last_n=3, frequency_penalty=0.5),
    ):
        sampler = Sampler(how)
        for index in (0, 1, 5):
            assert sampler.pick(ROW, index, sampler.looks_back(context, index)) == sampler.pick(ROW, index, context)
