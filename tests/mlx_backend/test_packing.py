"""Which families of mlx-lm run several conversations in one forward, and that the trial tells them apart."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

from edgeinfer.backends.mlx import packing  # noqa: E402
from edgeinfer.backends.mlx.forward import PackedLayer  # noqa: E402
from edgeinfer.backends.mlx.model import MlxModel  # noqa: E402
from edgeinfer.backends.reserve import PlannedCaches  # noqa: E402
from edgeinfer.prefill import prefill  # noqa: E402
from edgeinfer.protocols import Ask  # noqa: E402
from edgeinfer.window import WindowPolicy  # noqa: E402
from tests.mlx_backend.families import FAMILIES, N_VOCAB, build, open_model  # noqa: E402

POLICY = WindowPolicy(window=32, sink=4, block=8, limit=4096)
PLANNED = PlannedCaches(3, POLICY)
TOKENS = np.random.default_rng(5).integers(0, N_VOCAB, (3, 68)).tolist()
LENGTHS = (50, 7, 33)  # the first and the last past the wrap
SIZES = (2, 3, 1)
IN_TURN = {"gemma2"}  # attends by itself
TOLERANCE = 2e-4  # float32, relative to the largest logit


def rows(model: MlxModel, *, together: bool) -> list[np.ndarray]:
    caches = [model.new_cache(POLICY) for _ in LENGTHS]
    for cache, tokens, n in zip(caches, TOKENS, LENGTHS, strict=True):
        prefill(cache, tokens[:n])
    asks = [
        Ask(cache.begin(size), tokens[n : n + size], size)
        for cache, tokens, n, size in zip(caches, TOKENS, LENGTHS, SIZES, strict=True)
    ]
    found = model.run(asks) if together else [model.run([ask])[0] for ask in asks]
    values = [np.stack([row.numpy() for row in own]) for own in found]
    for cache in caches:
        cache.close()
    return values


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_a_shared_forward_are_those_of_each_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(build(FAMILIES[family]), planned=PLANNED)
    assert ("one after the other" in model.note) == (family in IN_TURN)
    alone = rows(model, together=False)
    forwards: list[int] = []
    true = MlxModel.run_together
    monkeypatch.setattr(MlxModel, "run_together", lambda self, asks: forwards.append(len(asks)) or true(self, asks))
    together = rows(model, together=True)
    assert max(forwards) == (1 if family in IN_TURN else len(LENGTHS))
    for got, want in zip(together, alone, strict=True):
        assert np.abs(got - want).max() <= TOLERANCE * np.abs(want).max()


@pytest.mark.parametrize("family", ["llama", "ministral3", "gemma3_text", "gemma4-shared-kv", "gpt_oss"])
def test_the_trial_sees_rows_at_the_position_of_another(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    init = PackedLayer.__init__

    def first_for_all(self: PackedLayer, rings: Any, cuts: Any, offset: Any) -> None:
        init(self, rings, cuts, mx.broadcast_to(offset[:1], offset.shape))

    model = open_model(build(FAMILIES[family]))
    assert packing.refusal(model) == ""
    monkeypatch.setattr(PackedLayer, "__init__", first_for_all)
    assert "differ by" in packing.refusal(model)


def test_one_conversation_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "refusal", lambda model: pytest.fail("tried"))
    monkeypatch.setattr("edgeinfer.backends.mlx.model.packing_refusal", lambda model: pytest.fail("tried"))
    assert open_model(build(FAMILIES["llama"])).n_caches == 1


def test_planned_conversations_have_memory_from_the_start() -> None:
    module = build(FAMILIES["llama"])
    mx.eval(module.parameters())
    before = mx.get_active_memory()
    model = open_model(module, planned=PLANNED)
    held = mx.get_active_memory() - before
    cache = model.new_cache(POLICY)
    assert cache.n_bytes == 6 * 2 * POLICY.slots * 2 * 16 * 4
    assert held >= PLANNED.n * cache.n_bytes
    again = mx.get_active_memory()
    for _ in range(4):
        prefill(cache, TOKENS[0][:20]).numpy()
        cache.close()
        cache = model.new_cache(POLICY)
    assert mx.get_active_memory() - again < cache.n_bytes
