"""The memory and file size of an export, known before it begins."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from edgeinfer.backends.executorch.export.bundle import Claims, Storage
from edgeinfer.backends.executorch.export.sizes import peak_bytes
from edgeinfer.backends.executorch.export.source import open_source
from edgeinfer.backends.executorch.exports import program_bytes
from edgeinfer.entries.files import entry_of_path
from edgeinfer.errors import NoPlanError, UsageError
from edgeinfer.runner.exporting import claims_of, export
from edgeinfer.runner.planned_export import plan_export
from tests.tiny_gguf import Tiny, write_tiny

DEMO = Path(__file__).parents[2] / "edgeinfer/models/demo.Q4_0.gguf"


def test_the_bytes_of_a_model_counted_by_hand(tmp_path: Path) -> None:
    shape = entry_of_path(write_tiny(tmp_path / "t.gguf", Tiny(n_layers=2, exit_layer=1))).shape
    vocabulary = 288 * 128
    per_layer_4_bits = 128 * 128 + 128 * 64 + 3 * 128 * 256  # q, k; gate, up, down
    per_layer_8_bits = 128 * 64 + 128 * 128  # v, output
    by_hand = (per_layer_4_bits * 2 + vocabulary) * 4.5 / 8 + per_layer_8_bits * 2 + vocabulary
    assert program_bytes(shape, "8da4w") == int(by_hand) + 2 * 20_000
    assert program_bytes(shape, "fp32") > 4 * (2 * vocabulary + 2 * (per_layer_4_bits + per_layer_8_bits))


def test_too_little_memory_is_refused_before_torch_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = peak_bytes(open_source(DEMO).shape, "8da4w")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=needed - 1))
    with pytest.raises(NoPlanError, match=r"takes 0\.8 GB of memory, and 0\.8 GB are free"):
        export(DEMO, tmp_path / "out", Storage())
    assert list(tmp_path.iterdir()) == []


def test_the_model_name_in_a_bundle(tmp_path: Path, smollm2: Path) -> None:
    stranger = write_tiny(tmp_path / "t.gguf", Tiny())
    assert claims_of(stranger) == Claims("tiny llama 0", "", "")
    named = Claims("SmolLM2 135M Instruct", "SmolLM2 135M Instruct", "apache-2.0")
    assert claims_of(smollm2) == named  # the file calls itself "Smollm2 135M 8k Lc100K Mix1 Ep2"


def test_a_folder_that_exists_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exists already"):
        export(DEMO, tmp_path, Storage())


def test_a_phone_is_planned_before_the_export() -> None:
    plan = plan_export(DEMO, Storage(), "iphone-15-pro")
    assert (plan.artifact.backend, plan.artifact.tier) == ("executorch", "8da4w")
    assert plan.window.limit == 2048 and plan.speculation.exit_layer == 3
    assert plan.estimate.kv_bytes == 2 * 12 * 4 * 64 * 4 * plan.window.slots  # K and V, layers, heads, values, float32
    assert plan.estimate.weight_bytes == program_bytes(entry_of_path(DEMO).shape, "8da4w")
