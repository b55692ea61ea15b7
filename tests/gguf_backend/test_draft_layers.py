"""The layer of a taught draft as a GGUF file: written once, written again when damaged, removed with its model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeinfer.formats.draft_file import DraftFile, read_draft_file
from edgeinfer.formats.gguf_header import GgufHeader, read_header
from edgeinfer.prefill import prefill
from edgeinfer.window import WindowPolicy
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import BACKEND, llama
from edgeinfer.backends.gguf.draft import kept_layers
from edgeinfer.backends.gguf.model import EngineSettings, GgufModel


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return write_tiny(tmp_path / "tiny.gguf", Tiny(tier="F16"))


def draft_for(model: Path, exit_layer: int = 2) -> tuple[DraftFile, GgufHeader]:
    path = write_tiny_draft(draft_beside(model), model, exit_layer=exit_layer)
    return read_draft_file(path), read_header(model)


def kept(model: Path) -> list[Path]:
    return sorted((model.parent / "cache" / "edgeinfer" / "draft-layers").iterdir())


def test_the_layer_is_written_once(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draft, header = draft_for(model)
    kept_layers.load_layer(draft, header, model).close()
    [file] = kept(model)
    assert {tensor.name for tensor in read_header(file).tensors if "attn_q" in tensor.name} == {
        "blk.0.attn_q.weight", "blk.1.attn_q.weight", "blk.2.attn_q.weight",
    }  # fmt: skip
    monkeypatch.setattr(kept_layers, "write_layer", None)
    kept_layers.load_layer(draft, header, model).close()


def test_another_draft_or_model_gets_another_file(model: Path) -> None:
    for exit_layer in (1, 2):
        draft, header = draft_for(model, exit_layer)
        kept_layers.load_layer(draft, header, model).close()
    write_tiny(model, Tiny(tier="F16", seed=9))
    kept_layers.load_layer(draft, read_header(model), model).close()
    assert len(kept(model)) == 3
    BACKEND.forget(model)
    assert kept(model) == []


@pytest.mark.parametrize("damage", [b"", b"GGUF", None])
def test_a_damaged_file_is_written_again(model: Path, damage: bytes | None) -> None:
    draft, header = draft_for(model)
    kept_layers.load_layer(draft, header, model).close()
    [file] = kept(model)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    kept_layers.load_layer(draft, header, model).close()
    assert file.read_bytes() == whole


def test_the_oldest_files_are_removed(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_layers, "_MAX_KEPT", 1)
    for exit_layer in (1, 2):
        draft, header = draft_for(model, exit_layer)
        kept_layers.load_layer(draft, header, model).close()
    assert len(kept(model)) == 1
    monkeypatch.setattr(kept_layers, "write_layer", None)
    kept_layers.load_layer(draft, header, model).close()  # the newest is kept


def test_without_a_cache_folder_the_layer_is_still_loaded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (model.parent / "cache").write_text("a file where the folder would be")
    draft, header = draft_for(model)
    kept_layers.load_layer(draft, header, model).close()


def test_a_model_whose_layers_cannot_be_copied_runs_without_the_draft(model: Path) -> None:
    draft, header = draft_for(model)
    bias = replace(header.by_name["blk.0.attn_norm.weight"], name="blk.1.attn_q.bias")
    biased = replace(header, tensors=(*header.tensors, bias))
    opened = GgufModel(llama.load(model), biased, EngineSettings(1, "f16"))
    opened.draft_by_file(draft, model)
    assert opened.drafts_with == ""
    assert "copies plain Llama layers, and tiny.gguf differs in blk.1.attn_q.bias" in opened.note
    cache = opened.new_cache(WindowPolicy(window=64, sink=0, block=16, limit=64))
    assert prefill(cache, [5, 6, 7]).argmax() >= 0
    opened.close()
