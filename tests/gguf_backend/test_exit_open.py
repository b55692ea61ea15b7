"""Whether a model drafts with its early layers: the self-test, its stored outcome, and refusals with reasons."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf import model as model_module
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.exit import contexts as contexts_module
from edgeinfer.backends.gguf.exit import layout as layout_module
from edgeinfer.backends.gguf.exit import self_test_cache
from edgeinfer.backends.gguf.exit.contexts import ExitContexts
from edgeinfer.backends.gguf.exit.graph import ExitStates, Stage
from edgeinfer.backends.gguf.model import EngineSettings, GgufModel
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.prefill import prefill
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=512)


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_tiny(tmp_path / "tiny.gguf", Tiny(tier="Q8_0", seed=1))


def open_model(path: Path, exit_layer: int = 2, **settings: Any) -> GgufModel:
    model = GgufModel(llama.load(path), read_header(path), EngineSettings(1, "f16", **settings))
    model.draft_with(exit_layer, path)
    return model


def assert_plain(model: GgufModel, reason: str) -> None:
    """The model decodes, does not draft, and says why."""
    assert model.exit_layer is None
    assert model.note.startswith("no drafts from early layers: ")
    assert reason in model.note
    cache = model.new_cache(POLICY)
    prefill(cache, [5])
    round_ = cache.begin(1)
    with pytest.raises(EngineError, match="does not draft"):
        round_.draft(3)
    assert len(round_.verify([3])) == 1
    round_.commit(1)
    model.close()


def broken_early(contexts: ExitContexts, tokens: Sequence[int], position: int, row: int, **stream: int) -> None:
    """The early layers are not run for the newest token."""
    contexts._verify.run(tokens, position, Stage.WHOLE, **stream)


def stale_states(self: ExitStates, n_rows: int, hidden: int) -> None:
    """Every row finds the state of the first."""
    self.hidden = np.lib.stride_tricks.as_strided(np.zeros((1, hidden), np.float32), (n_rows, hidden), (0, 4))
    self.cells = np.zeros(n_rows, np.int64)


def no_removal(self: ExitContexts, tokens: Sequence[int], position: int, **stream: int) -> llama.Context:
    """Verified rows follow the drafted ones instead of replacing them."""
    self._verify.run(tokens, position + len(tokens), Stage.LATE, **stream)
    return self._verify.context


def wrong_whole(self: ExitContexts, tokens: Sequence[int], position: int, **stream: int) -> llama.Context:
    """Several rows without drafts run through the early layers only."""
    self._verify.run(tokens, position, Stage.DRAFT, **stream)
    return self._verify.context


MISTAKES: dict[str, tuple[object, str, Callable[..., Any]]] = {
    "early layers one short": (ExitContexts, "early", broken_early),
    "stale exit states": (ExitStates, "__init__", stale_states),
    "several rows without drafts are wrong": (ExitContexts, "whole", wrong_whole),
    "drafted positions kept": (ExitContexts, "late", no_removal),
    "a rejected row kept": (
        GgufCache,
        "finish",
        lambda self, n_kept, n_run: (setattr(self, "_round", None), self._keep(n_run)),
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_self_test_turns_drafting_off(mistake: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(*MISTAKES[mistake])
    model = open_model(path)
    monkeypatch.undo()
    assert_plain(model, "the self-test failed, ")


def test_the_outcome_is_stored_for_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tested: list[int] = []
    test = GgufModel._self_test
    monkeypatch.setattr(GgufModel, "_self_test", lambda self: (tested.append(1), test(self))[1])
    for _ in range(2):
        model = open_model(path)
        assert (model.exit_layer, model.note) == (2, "")
        model.close()
    assert len(tested) == 1
    open_model(path, 1).close()  # another exit layer is tested again
    assert len(tested) == 2
    os.utime(path, ns=(1, 1))  # so is another file at the path
    open_model(path).close()
    assert len(tested) == 3
    monkeypatch.setattr(model_module, "library_versions", lambda: {"llama.cpp": "newer"})
    open_model(path).close()  # and so is another engine
    assert len(tested) == 4


def test_a_failure_is_stored_as_well(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GgufModel, "_self_test", lambda self: "the rows are upside down")
    assert_plain(open_model(path), "upside down")
    monkeypatch.setattr(GgufModel, "_self_test", lambda self: "")
    assert_plain(open_model(path), "upside down")


@pytest.mark.parametrize("damage", ["", "[]", "null", '{"about": []}'])
def test_after_a_damaged_outcome_the_test_runs_again(damage: str, path: Path) -> None:
    open_model(path).close()
    (file,) = self_test_cache.written(path)
    file.write_text(damage, encoding="utf-8")
    model = open_model(path)
    assert model.exit_layer == 2
    model.close()


def kept_outcomes(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "edgeinfer" / "self-tests").glob("*.json"))


def test_stored_outcomes_are_listed_and_removed(path: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", Tiny(tier="Q8_0", seed=2))
    assert kept_outcomes(tmp_path) == []
    open_model(path).close()
    open_model(other).close()
    (file,) = self_test_cache.written(path)
    assert len(kept_outcomes(tmp_path)) == 2
    size = file.stat().st_size
    assert 0 < size < 4096
    assert sorted(item.name for item in tmp_path.iterdir()) == ["cache", "other.gguf", "tiny.gguf"]  # no other file
    assert self_test_cache.remove(path) == size
    assert self_test_cache.written(path) == []
    assert kept_outcomes(tmp_path) == self_test_cache.written(other)


def test_in_an_unwritable_folder_the_test_runs_every_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(path))  # a file, not a folder
    model = open_model(path)
    assert model.exit_layer == 2
    model.close()


@pytest.mark.parametrize("exit_layer", [-1, 4, 5])
def test_an_exit_layer_that_the_model_does_not_have_is_refused(exit_layer: int, path: Path) -> None:
    assert_plain(open_model(path, exit_layer), f"names exit layer {exit_layer}; the model has 4 layers")


def test_unsupported_architectures_are_named(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "gemma.gguf", Tiny(architecture="gemma3", tier="Q8_0", n_layers=6, own_window=32))
    assert_plain(open_model(path), "early exit on llama.cpp supports llama and qwen3 models, not gemma3")


def test_a_model_on_a_gpu_is_refused(path: Path) -> None:
    assert_plain(open_model(path, n_gpu_layers=1), "the model is on a GPU")


def test_the_switch_forbids_any_write_into_llama_cpp(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEINFER_PATCH_LLAMA", "off")
    writes: list[int] = []
    monkeypatch.setattr(contexts_module, "write_pointer", lambda address, value: writes.append(address))
    assert_plain(open_model(path), "EDGEINFER_PATCH_LLAMA=off forbids it")
    assert writes == []
    assert self_test_cache.written(path) == []  # the switch says nothing about the file
    monkeypatch.setenv("EDGEINFER_PATCH_LLAMA", "of")
    with pytest.raises(UsageError, match="EDGEINFER_PATCH_LLAMA is `of`"):
        open_model(path)


def test_an_engine_with_another_layout_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contexts_module, "_SCANNED_BYTES", 8)
    assert_plain(open_model(path), "cannot find the memory pointer of a context in this llama.cpp (0 candidates)")
    assert self_test_cache.written(path) == []  # it is not the file's fault
    monkeypatch.setattr(layout_module, "_words", lambda n_bytes: range(0))
    assert_plain(open_model(path), "cannot measure the tensors of this ggml (0 candidates for a field)")


def test_the_measured_layout_does_not_depend_on_earlier_memory_contents() -> None:
    assert len({layout_module.find_layout() for _ in range(200)}) == 1
