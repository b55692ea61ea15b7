"""Early exit on llama.cpp: drafts and verified rows equal those of separate models, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.exit import graph as graph_module
from edgeinfer.backends.gguf.exit.graph import ExitGraph, GraphMap, Stage
from edgeinfer.backends.gguf.model import EngineSettings, GgufModel
from edgeinfer.errors import EngineError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.prefill import prefill
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy
from tests import tiny_gguf
from tests.tiny_gguf import Tiny, write_tiny

DEMO = Path(llama.__file__).parents[2] / "models" / "demo.Q4_0.gguf"
POLICY = WindowPolicy(window=64, sink=8, block=16, limit=512)
TINY = {
    "llama": Tiny(tier="Q8_0", seed=1),
    "llama-q4_0": Tiny(tier="Q4_0", seed=2),
    "qwen3": Tiny(architecture="qwen3", tier="Q8_0", seed=3, n_layers=5, exit_layer=1),
    "last-layer": Tiny(tier="Q8_0", seed=4, exit_layer=3),
}
N_PROMPT = 20


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


def model_file(name: str, folder: Path) -> Path:
    path = DEMO if name == "demo" else folder / f"{name}.gguf"
    return path if path.exists() else write_tiny(path, TINY[name])


def open_model(path: Path, kv_type: KvType = "f16", *, exit_layer: int | None = None) -> GgufModel:
    """Drafts by the layer that the file names, or by `exit_layer`. With one thread, attention rounds all rows alike."""
    header = read_header(path)
    model = GgufModel(llama.load(path), header, EngineSettings(1, kv_type))
    model.draft_with(exit_layer or int(str(header.metadata["edgeinfer.exit_layer"])), path)
    return model


@pytest.fixture(params=["llama", "llama-q4_0", "qwen3", "last-layer", "demo"])
def model(request: pytest.FixtureRequest, folder: Path) -> Iterator[GgufModel]:
    model = open_model(model_file(request.param, folder))
    assert model.note == ""
    assert model.exit_layer is not None
    yield model
    model.close()


def tokens_of(n: int, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, 250, n)]


def step(cache: Any, tokens: Sequence[int], drafted: Sequence[int] = (), *, keep: int) -> list[Any]:
    """The rows of one round."""
    round_ = cache.begin(max(len(tokens), len(drafted)))
    for token in drafted:
        round_.draft(token)
    rows = [row.numpy().copy() for row in round_.verify(tokens)]
    round_.commit(keep)
    return rows


def plain_rows(model: GgufModel, tokens: Sequence[int], policy: WindowPolicy = POLICY) -> list[Any]:
    """The row after each token from N_PROMPT on, one at a time without drafts."""
    cache = model.new_cache(policy)
    prefill(cache, tokens[:N_PROMPT])
    rows = [step(cache, [token], keep=1)[0] for token in tokens[N_PROMPT:]]
    cache.close()
    return rows


def assert_same(found: Sequence[Any], expected: Sequence[Any]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_verified_rows_are_plain_rows_however_many_were_drafted(model: GgufModel) -> None:
    tokens = tokens_of(N_PROMPT + 6)
    expected = plain_rows(model, tokens)
    cache = model.new_cache(POLICY)
    prefill(cache, tokens[:N_PROMPT])
    late = tokens[N_PROMPT:]
    for n in range(1, 7):
        for n_drafted in range(n + 2):
            drafted = [*late, 9][:n_drafted]
            assert_same(step(cache, late[:n], drafted, keep=0), expected[:n])
    cache.close()


def test_states_of_other_drafts_are_not_used(model: GgufModel) -> None:
    tokens = tokens_of(N_PROMPT + 5)
    expected = plain_rows(model, tokens)
    cache = model.new_cache(POLICY)
    prefill(cache, tokens[:N_PROMPT])
    late = tokens[N_PROMPT:]
    for n_right in range(5):
        drafted = [*late[:n_right], *(251 + index for index in range(5 - n_right))]
        assert_same(step(cache, late, drafted, keep=0), expected)
        assert_same(step(cache, late[:3], drafted, keep=0), expected[:3])
    cache.close()


@pytest.mark.parametrize("n_kept", range(5))
def test_after_a_commit_every_layer_has_the_same_length(model: GgufModel, n_kept: int) -> None:
    tokens = tokens_of(N_PROMPT + 9)
    expected = plain_rows(model, tokens)
    late = tokens[N_PROMPT:]
    for n_drafted in (3, 4):  # the newest token's early layers run in the round, or in its draft
        cache = model.new_cache(POLICY)
        prefill(cache, tokens[:N_PROMPT])
        step(cache, late[:4], late[:n_drafted], keep=n_kept)
        assert cache.length == N_PROMPT + n_kept
        again = late[n_kept : n_kept + 3]
        assert_same(step(cache, again, again[:2], keep=3), expected[n_kept : n_kept + 3])
        plain = late[n_kept + 3 : n_kept + 5]
        assert_same([step(cache, [token], keep=1)[0] for token in plain], expected[n_kept + 3 : n_kept + 5])
        cache.close()


def test_wrong_drafts_are_harmless_past_many_evictions(model: GgufModel) -> None:
    tokens = tokens_of(N_PROMPT + 170)
    expected = plain_rows(model, tokens)
    cache = model.new_cache(POLICY)
    prefill(cache, tokens[:N_PROMPT])
    rng = np.random.default_rng(5)
    accepted = rejected = 0
    while (at := cache.length) < len(tokens) - 8:
        n = min(int(rng.integers(1, 8)), POLICY.room(at))
        right = tokens[at : at + n]
        n_right = int(rng.integers(1, n + 1))
        fed = [*right[:n_right], *((token + 1) % 250 for token in right[n_right:])]
        n_drafted = int(rng.integers(0, n + 1))
        rows = step(cache, fed, fed[:n_drafted], keep=n_right)
        assert_same(rows[:n_right], expected[at - N_PROMPT : at - N_PROMPT + n_right])
        accepted, rejected = accepted + n_right - 1, rejected + n - n_right
    assert accepted > 20
    assert rejected > 20
    assert len(POLICY.evicted(cache.length)) >= 6 * POLICY.block
    cache.close()


def test_a_chat_may_grow_past_the_reserved_graphs(folder: Path) -> None:
    """llama.cpp builds new graphs every 256 cells, and they outgrow those that a sharing context reserved."""
    policy = WindowPolicy(window=640, sink=64, block=64, limit=2048)
    model = open_model(model_file("llama", folder))
    tokens = tokens_of(N_PROMPT + 560)
    expected = plain_rows(model, tokens, policy)
    cache = model.new_cache(policy)
    for start in range(0, 244, 61):  # in pieces that round like single rows
        prefill(cache, tokens[start : start + 61])
    while (at := cache.length) < len(tokens) - 4:
        four = tokens[at : at + 4]
        assert_same(step(cache, four, four[: 1 + at % 4], keep=4), expected[at - N_PROMPT : at - N_PROMPT + 4])
    assert cache.length > 512
    model.close()


def test_rollback_and_rewind_leave_no_trace(model: GgufModel) -> None:
    tokens = tokens_of(N_PROMPT + 8)
    expected = plain_rows(model, tokens)
    cache = model.new_cache(POLICY)
    prefill(cache, tokens[:N_PROMPT])
    late = tokens[N_PROMPT:]
    for stop_after in ("begin", "draft", "verify"):
        round_ = cache.begin(4)
        if stop_after != "begin":
            for token in (7, 8, 9):
                round_.draft(token)
        if stop_after == "verify":
            round_.verify([7, 8, 9, 10])
        round_.rollback()
        round_.rollback()
        assert cache.length == N_PROMPT
    assert_same(step(cache, late[:4], late[:3], keep=4), expected[:4])
    cache.rewind(N_PROMPT + 1)
    assert_same(step(cache, late[1:4], late[1:4], keep=3), expected[1:4])
    cache.close()


@pytest.mark.parametrize("kv_type", ["f16", "q8_0/f16", "q8_0", "q4_0"])
def test_early_exit_drafts_with_every_kv_type(folder: Path, kv_type: KvType) -> None:
    model = open_model(model_file("demo", folder), kv_type)
    assert model.note == ""
    tokens = tokens_of(N_PROMPT + 90)
    expected = plain_rows(model, tokens)
    cache = model.new_cache(POLICY)
    prefill(cache, tokens[:N_PROMPT])
    for at in range(N_PROMPT, N_PROMPT + 84, 4):
        three = tokens[at : at + 3]
        assert_same(step(cache, three, three[:2], keep=3), expected[at - N_PROMPT : at - N_PROMPT + 3])
        step(cache, [tokens[at + 3]], keep=1)
    assert len(POLICY.evicted(cache.length)) >= 2 * POLICY.block
    model.close()


def test_a_draft_is_the_row_of_a_model_cut_at_the_exit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oracle is a model file with only the early layers, the norm and the head."""
    path, whole, tensors = model_file("llama", folder), TINY["llama"], tiny_gguf._tensors
    kept = (tensor for tensor in tensors(whole, 288) if not tensor[0].startswith(("blk.2.", "blk.3.")))
    monkeypatch.setattr(tiny_gguf, "_tensors", lambda tiny, n_vocab: kept)
    cut_file = write_tiny(folder / "cut.gguf", replace(whole, n_layers=2))
    cut = GgufModel(llama.load(cut_file), read_header(cut_file), EngineSettings(1, "f16"))
    model = open_model(path)
    tokens = tokens_of(N_PROMPT + 4)
    expected = plain_rows(cut, tokens)
    cache = model.new_cache(POLICY)
    prefill(cache, tokens[:N_PROMPT])
    round_ = cache.begin(4)
    rows = [round_.draft(token) for token in tokens[N_PROMPT:]]
    assert_same([row.numpy() for row in rows], expected)  # each stays valid after later drafts
    round_.rollback()
    cut.close()
    model.close()


def test_a_row_stands_for_its_best_token(folder: Path) -> None:
    model = open_model(model_file("llama", folder))
    cache = model.new_cache(POLICY)
    prefill(cache, tokens_of(N_PROMPT))
    round_ = cache.begin(3)
    first = round_.draft(5)
    second = round_.draft(first)
    by_row = [row.numpy().copy() for row in round_.verify([5, first, second])]
    round_.rollback()
    assert_same(step(cache, [5, first.argmax(), second.argmax()], keep=0), by_row)
    model.close()


def test_rows_written_to_unexpected_cells_are_computed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(model_file("llama", folder))
    tokens = tokens_of(N_PROMPT + 4)
    expected = plain_rows(model, tokens)
    ran: list[Stage] = []
    run = ExitGraph.run

    def shifted(self: ExitGraph, context: Any, batch: Any, stage: Stage, **rows: int) -> bool:
        ran.append(stage)
        if stage is Stage.LATE:
            self._states.cells[1] += 1
        return run(self, context, batch, stage, **rows)

    cache = model.new_cache(POLICY)
    monkeypatch.setattr(ExitGraph, "run", shifted)
    prefill(cache, tokens[:N_PROMPT])
    late = tokens[N_PROMPT:]
    assert_same(step(cache, late, late[:3], keep=4), expected)
    assert ran == [Stage.DRAFT] * 3 + [Stage.EARLY, Stage.LATE, Stage.WHOLE]
    model.close()


def test_the_first_round_builds_no_graph(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped: list[int] = []
    map_graph = graph_module.map_graph

    def counted(nodes: Sequence[int], *rest: Any) -> GraphMap:
        mapped.append(len(nodes))
        return map_graph(nodes, *rest)

    monkeypatch.setattr(graph_module, "map_graph", counted)
    model = open_model(model_file("llama", folder))
    cache = model.new_cache(POLICY)
    assert mapped, "graphs are mapped when the cache opens"
    mapped.clear()
    tokens = tokens_of(N_PROMPT + 2)
    prefill(cache, tokens[:N_PROMPT])
    step(cache, tokens[N_PROMPT:], tokens[N_PROMPT : N_PROMPT + 1], keep=1)
    assert not mapped
    model.close()


def test_drafting_works_without_the_address_of_the_scheduler(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ExitGraph, "attach", lambda self, context: None)
    model = open_model(model_file("qwen3", folder))
    assert model.note == ""
    tokens = tokens_of(N_PROMPT + 30)
    expected = plain_rows(model, tokens)
    cache = model.new_cache(POLICY)
    prefill(cache, tokens[:N_PROMPT])
    for at in range(0, 30, 3):
        three = tokens[N_PROMPT + at : N_PROMPT + at + 3]
        assert_same(step(cache, three, three[:2], keep=3), expected[at : at + 3])
    model.close()


def test_misuse_is_refused(folder: Path) -> None:
    model = open_model(model_file("llama", folder))
    cache = model.new_cache(POLICY)
    prefill(cache, [5])
    round_ = cache.begin(1)
    round_.draft(3)
    with pytest.raises(EngineError, match="draft of row 1"):
        round_.draft(3)
    round_.verify([3])
    with pytest.raises(EngineError, match="verifies once"):
        round_.verify([3])
    with pytest.raises(EngineError, match="before it verifies"):
        round_.draft(3)
    with pytest.raises(EngineError, match="commit of 2 rows"):
        round_.commit(2)
    round_.commit(1)
    with pytest.raises(EngineError, match="commit of"):
        round_.commit(1)
    round_ = cache.begin(2)
    round_.draft(3)
    with pytest.raises(EngineError, match="commit of 1 rows in a round of 0"):
        round_.commit(1)
    round_.rollback()
    assert cache.length == 2
    model.close()
    model.close()
