"""Known models under other names, and unknown models of the same shape."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgeinfer.catalog import Artifact, ModelEntry, load_catalog
from edgeinfer.entries.files import RANK_SOURCE, USUAL, entry_of_path
from edgeinfer.entries.recognize import recognized
from edgeinfer.shape import LayerKv
from tests.tiny_gguf import write_tiny

CATALOG = load_catalog(Path("/nonexistent/models.toml"))


def stranger(name: str, n_bytes: int = 12345, *, like: str = "smollm2-135m", **shape: Any) -> ModelEntry:
    model = CATALOG.find(like)
    assert model is not None
    file = Artifact("gguf", "Q8_0", n_bytes, "", f"/models/{name}.gguf")
    made = replace(
        model.shape, limit=4096, n_params=1, n_active_params=1, **shape
    )  # counted differently by different formats
    return ModelEntry(name, name, "not stated", False, 0, RANK_SOURCE, made, USUAL, (file,))


def is_known(entry: ModelEntry, *names: str, like: str = "smollm2-135m") -> bool:
    found, model = recognized(entry, CATALOG.models, [entry.name, *names]), CATALOG.find(like)
    assert model is not None
    assert (found.name, found.artifacts, found.shape) == (entry.name, entry.artifacts, entry.shape)
    known = (found.title, found.license, found.sampling) == (model.title, model.license, model.sampling)
    assert known or found == entry
    return known


@pytest.mark.parametrize(
    "names",
    [
        ("SmolLM2-135M-Instruct.Q4_1",),
        ("smollm2-135m-instruct-q8_0",),
        ("SmolLM2_135M_Instruct",),
        ("model", "Smollm2 135M 8k Lc100K Mix1 Ep2"),
        ("x", "", "https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"),
    ],
)
def test_a_model_is_recognized_by_any_of_its_names(names: tuple[str, ...]) -> None:
    assert is_known(stranger(names[0]), *names[1:])


def test_a_model_is_recognized_by_its_size_alone() -> None:
    assert is_known(stranger("download (3)", 98_362_432), "something else")
    assert is_known(stranger("download (3)", 105_454_432))
    assert not is_known(stranger("download (3)", 98_362_431))
    assert not is_known(stranger("download (3)", 145_000_000)), "an estimate is no size"


@pytest.mark.parametrize(
    "name",
    [
        "SmolLM2-135M-Roleplay",
        "SmolLM2-135M-abliterated",
        "SmolLM2-135M-merged",
        "SmolLM2_135M_base",
        "my-smollm2-135m-finetune",
        "SmolLM-135M-Instruct",
        "smollm2-1350m",
        "model",
    ],
)
def test_derived_models_are_not_mistaken_for_the_known_one(name: str) -> None:
    assert not is_known(stranger(name))


@pytest.mark.parametrize("name", ["DeepSeek-R1-Distill-Llama-3.1-8B", "Hermes-3-Llama-3.1-8B", "Llama-Guard-3.1-8B"])
def test_derived_models_of_a_large_family(name: str) -> None:
    assert not is_known(stranger(name, like="llama-3.1-8b"), like="llama-3.1-8b")
    assert is_known(stranger("Meta-Llama-3.1-8B-Instruct", like="llama-3.1-8b"), like="llama-3.1-8b")


@pytest.mark.parametrize(
    "shape",
    [
        {"n_layers": 29},
        {"hidden": 640},
        {"n_heads": 8},
        {"n_ffn": 1537},
        {"n_vocab": 49153},
        {"kv": (LayerKv(30, 9, 64),)},
        {"kv": (LayerKv(30, 3, 32),)},
    ],
)
def test_a_name_alone_is_not_enough(shape: dict[str, Any]) -> None:
    assert not is_known(stranger("SmolLM2-135M-Instruct", 98_362_432, **shape))


def test_whether_a_model_reasons_comes_from_the_catalog() -> None:
    found = recognized(stranger("Qwen3-4B-Q8_0", like="qwen3-4b"), CATALOG.models, ["Qwen3-4B-Q8_0"])
    assert found.thinking == ("<think>", "</think>") and found.title == "Qwen3 4B"


def test_smollm2_under_another_name(smollm2: Path, tmp_path: Path) -> None:
    link = tmp_path / "renamed.gguf"
    link.symlink_to(smollm2)
    for path in (smollm2, link):
        entry = entry_of_path(path, CATALOG.models)
        assert (entry.title, entry.sampling.temperature) == ("SmolLM2 135M Instruct", 0.2)
    assert entry_of_path(link).title == "Smollm2 135M 8k Lc100K Mix1 Ep2"


def test_a_tiny_model_is_not_recognized(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "smollm2-135m.gguf")
    assert entry_of_path(path, CATALOG.models) == entry_of_path(path)
