"""Early exit with stock mlx-lm models: early plus late layers equal the model, and verified rows equal plain rows."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

import numpy as np  # noqa: E402

from edgeinfer.backends.mlx.adapter import Stages, own_windows, refusal  # noqa: E402
from edgeinfer.backends.mlx.cache import MlxCache  # noqa: E402
from edgeinfer.backends.mlx.routing import route_attention  # noqa: E402
from edgeinfer.errors import EngineError  # noqa: E402
from edgeinfer.prefill import prefill  # noqa: E402
from edgeinfer.window import WindowPolicy  # noqa: E402
from tests.mlx_backend.families import FAMILIES, N_LAYERS, N_VOCAB, RECURRENT, build, open_model  # noqa: E402

POLICY = WindowPolicy(window=32, sink=4, block=8, limit=4096)
EXITS = range(1, N_LAYERS)
TOKENS = np.random.default_rng(0).integers(0, N_VOCAB, 68).tolist()
TOLERANCE = 2e-4  # float32, relative to the largest logit; slots are not read in the order of positions


@cache
def model_of(family: str) -> Any:
    model = build(FAMILIES[family])
    bound = route_attention(model)
    assert bound == (0 if family == "gemma2" else 1)
    return model


def new_cache(family: str, exit_layer: int) -> MlxCache:
    return open_model(model_of(family), exit_layer or None).new_cache(POLICY)


@cache
def plain_rows(family: str) -> np.ndarray:
    """The row of every token after the first nine, one token a round: [59, V]."""
    ring = new_cache(family, 0)
    rows = [prefill(ring, TOKENS[:9]).numpy()]
    for token in TOKENS[9:]:
        step = ring.begin(1)
        rows.append(step.verify([token])[0].numpy())
        step.commit(1)
    return np.stack(rows)


def close(got: np.ndarray, want: np.ndarray) -> bool:
    return float(np.abs(got - want).max()) <= TOLERANCE * float(np.abs(want).max())


@pytest.mark.parametrize("family", FAMILIES)
def test_window_equals_stock_model_before_it_evicts(family: str) -> None:
    stock = np.array(model_of(family)(mx.array([TOKENS[:20]]))[0].astype(mx.float32))
    assert close(plain_rows(family)[: 20 - 8], stock[8:20])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exit_layer", EXITS)
def test_early_and_late_layers_make_the_whole_model(family: str, exit_layer: int) -> None:
    model = model_of(family)
    if reason := refusal(model, exit_layer):
        assert family == "gemma4-shared-kv" and "share K/V" in reason
        return
    stages = Stages(model, exit_layer)
    tokens = mx.array([TOKENS[:20]])
    whole = model(tokens)
    parts = stages.head(stages.back(tokens, stages.front(tokens, None), None))
    assert mx.array_equal(whole, parts).item()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("exit_layer", EXITS)
def test_verify_rows_are_plain_rows_past_the_wrap(family: str, exit_layer: int) -> None:
    if refusal(model_of(family), exit_layer):
        pytest.skip("refused: test_early_and_late_layers_make_the_whole_model shows why")
    want = plain_rows(family)
    ring = new_cache(family, exit_layer)
    assert close(prefill(ring, TOKENS[:9]).numpy(), want[0])
    at, accepted, rejected = 9, 0, 0
    while at < len(TOKENS) - 4:
        step = ring.begin(min(4, POLICY.room(ring.length)))
        n = min(4, POLICY.room(ring.length))
        keep = 1 + at % n
        tokens = [*TOKENS[at : at + keep], *[(TOKENS[at + i] + 1) % N_VOCAB for i in range(keep, n)]]
        for token in tokens[:-1]:
            step.draft(token)
        rows = step.verify(tokens)
        for index in range(keep):
            assert close(rows[index].numpy(), want[at + index - 8])
        step.commit(keep)
        at += keep
        accepted, rejected = accepted + keep - 1, rejected + n - keep
    assert accepted > 10 and rejected > 10
    assert len(POLICY.evicted(ring.length)) >= 3 * POLICY.block


@pytest.mark.parametrize("family", RECURRENT)
def test_recurrent_state_is_refused_with_its_reason(family: str) -> None:
    with pytest.raises(EngineError, match="cannot forget rows"):
        own_windows(build(RECURRENT[family]))


def test_a_chain_of_drafts_stays_on_the_device() -> None:
    ring = new_cache("llama", 3)
    prefill(ring, TOKENS[:9])
    step = ring.begin(4)
    first = step.draft(TOKENS[9])
    second = step.draft(first)
    rows = step.verify([TOKENS[9], first, second])
    assert rows[0].argmax() in range(N_VOCAB)
    host = new_cache("llama", 3)
    prefill(host, TOKENS[:9])
    again = host.begin(4)
    one = again.draft(TOKENS[9]).argmax()
    two = again.draft(one).argmax()
    assert [first.argmax(), second.argmax()] == [one, two]
    assert [row.argmax() for row in rows] == [row.argmax() for row in again.verify([TOKENS[9], one, two])]
