"""Rewinds where a sliding layer keeps less than the window: exact while it holds the keys, refused after."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

from edgeinfer.backends.mlx.cache import MlxCache
from edgeinfer.backends.rounds import run_in_turn
from edgeinfer.decode.loop import Decoder
from edgeinfer.errors import RewindError
from edgeinfer.prefill import prefill
from edgeinfer.types import GREEDY, Prompt
from edgeinfer.window import WindowPolicy
from tests.mlx_backend.families import FAMILIES, N_VOCAB, build, open_model

POLICY = WindowPolicy(window=2048, sink=0, block=512, limit=4096)
TOKENS = np.random.default_rng(3).integers(0, N_VOCAB, 1800).tolist()


@pytest.fixture(scope="module")
def cache() -> MlxCache:
    """Its sliding layers see 8 positions and keep 1024; its full layers keep 2048."""
    return open_model(build(FAMILIES["llama-sliding"])).new_cache(POLICY)


def test_a_rewind_to_held_keys_is_exact_and_one_to_overwritten_keys_is_refused(cache: MlxCache) -> None:
    for target, held in ((1700, True), (1800 - 1024 + 8, True), (1800 - 1024 + 7, False), (100, False)):
        cache.rewind(0)
        want = prefill(cache, TOKENS[: target + 1]).numpy()
        cache.rewind(0)
        prefill(cache, TOKENS)
        assert POLICY.can_rewind(cache.length, target)
        if held:
            cache.rewind(target)
            got = prefill(cache, [TOKENS[target]]).numpy()
            assert np.allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())
        else:
            with pytest.raises(RewindError, match="sliding window"):
                cache.rewind(target)


class Held:
    """A model with one given cache."""

    def __init__(self, cache: MlxCache) -> None:
        self.new_cache = lambda policy: cache
        self.run = run_in_turn
        self.rest = lambda: None
        self.exact_rows = None


def test_a_conversation_that_goes_back_too_far_is_run_again(cache: MlxCache) -> None:
    def answer(tokens: list[int]) -> list[int]:
        return list(decoder.stream(Prompt(tuple(tokens)), GREEDY, max_tokens=4, stop_tokens=frozenset()))

    decoder = Decoder(Held(cache), POLICY)  # type: ignore[arg-type]
    cache.rewind(0)
    other = [*TOKENS[:300], *TOKENS[900:950]]
    want = answer(other)
    cache.rewind(0)
    answer(TOKENS)
    assert answer(other) == want
    assert (decoder.stats.reused, decoder.stats.reprefilled) == (0, 300)
