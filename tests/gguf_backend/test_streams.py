"""Several conversations in the streams of one llama.cpp context: decodes per step, and which stream each uses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.model import EngineSettings, GgufModel
from edgeinfer.backends.gguf.streams import Part, decodes
from edgeinfer.errors import EngineError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Ask
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=128)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("streams") / "tiny.gguf", Tiny(tier="Q4_0"))


@pytest.fixture
def model(path: Path) -> Iterator[GgufModel]:
    settings = EngineSettings(1, "q8_0/f16")
    model = GgufModel(llama.load(path), read_header(path), settings, n_caches=4, policy=POLICY)
    yield model
    model.close()


def open_caches(model: GgufModel, n: int) -> list[GgufCache]:
    caches = [model.new_cache(POLICY) for _ in range(n)]
    for cache in caches:
        prefill(cache, [5, 6, 7])
    return caches


def step(model: GgufModel, *caches: GgufCache) -> list[Any]:
    asks = [Ask(cache.begin(1), [9], 1) for cache in caches]
    rows = [found[0].numpy().copy() for found in model.run(asks)]
    for ask in asks:
        ask.round.commit(1)
    return rows


def part(ask: int, stream: int, n: int) -> Part:
    return Part(ask, stream, [0] * n, position=0, n_wanted=n)


def test_asks_with_equally_many_rows_share_a_decode_in_the_order_of_their_streams() -> None:
    asked = [part(0, 3, 1), part(1, 0, 20), part(2, 1, 1), part(3, 2, 4)]
    found = decodes(asked, n_batch=64, n_outputs=16, n_together=16)
    assert [[(one.ask, len(one.ids)) for one in parts] for parts in found] == [
        [(1, 16)],
        [(1, 4)],
        [(2, 1), (0, 1)],
        [(3, 4)],
    ]


def test_the_context_of_all_conversations_is_allocated_with_the_model(
    model: GgufModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama.C, "llama_init_from_model", lambda *arguments: pytest.fail("a context is opened"))
    open_caches(model, 4)
    with pytest.raises(EngineError, match="every conversation that was planned is open"):
        model.new_cache(POLICY)


def test_a_running_conversation_moves_into_a_free_stream_between_others(model: GgufModel) -> None:
    first, left, other, last = open_caches(model, 4)
    alone = step(model, first, other, last)
    left.close()
    assert [cache.stream for cache in (first, other, last)] == [0, 2, 3]
    for cache in (first, other, last):
        cache.rewind(3)
    again = step(model, first, other, last)
    assert [cache.stream for cache in (first, other, last)] == [0, 2, 1]
    assert all((one == two).all() for one, two in zip(alone, again, strict=True))
    assert model.new_cache(POLICY).stream == 3


def test_an_idle_conversation_between_running_ones_moves_out(model: GgufModel) -> None:
    first, resting, last, left = open_caches(model, 4)
    alone, rested = step(model, first, last), step(model, resting)
    left.close()
    for cache in (first, resting, last):
        cache.rewind(3)
    again = step(model, first, last)
    assert [cache.stream for cache in (first, resting, last)] == [0, 3, 1]
    assert all((one == two).all() for one, two in zip(alone, again, strict=True))
    assert (step(model, resting)[0] == rested[0]).all()
    assert model.new_cache(POLICY).stream == 2


def test_an_idle_conversation_keeps_its_stream_where_none_is_free(model: GgufModel) -> None:
    first, resting, last, _ = open_caches(model, 4)
    step(model, first, last)
    assert [cache.stream for cache in (first, resting, last)] == [0, 1, 2]
    step(model, resting)
    assert resting.length == 4
