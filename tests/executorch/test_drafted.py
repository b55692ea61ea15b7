"""Bundles with a taught draft: which draft an export takes, what a plan says, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.backends.executorch.export.bundle import Storage
from edgeinfer.cli.main import main
from edgeinfer.entries.files import entry_of_path
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import check_bundle, file_of, ranked_tokens, write_ranked_tokens
from edgeinfer.formats.manifest import DRAFT_TOKENS, write_manifest
from edgeinfer.runner.exporting import found_draft
from edgeinfer.runner.planned_export import plan_export
from tests.executorch.bundles import DRAFT, write_bundle, write_drafted_bundle
from tests.executorch.exported import bundle_of, missing
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny

needs_export = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = write_tiny(tmp_path / "llama-F32.gguf", Tiny())
    write_tiny_draft(draft_beside(path), path, (1, 2, 4))
    return path


def test_an_export_takes_the_draft_that_is_named_or_lies_beside_the_model(model: Path, tmp_path: Path) -> None:
    other = write_tiny_draft(tmp_path / "other.draft.safetensors", model, exit_layer=2)
    beside, named = found_draft(entry_of_path(model)), found_draft(entry_of_path(model), other)
    assert beside.file is not None and beside.file.kind == "feature"
    assert named.file is not None and named.file.kind == "exit"
    draft_beside(model).unlink()
    assert found_draft(entry_of_path(model)).file is None


def test_a_draft_of_another_model_is_left_out_or_refused_by_name(model: Path, tmp_path: Path) -> None:
    deeper = write_tiny(tmp_path / "deeper.gguf", Tiny(n_layers=5))
    wrong = write_tiny_draft(draft_beside(deeper), deeper, (1, 2))
    draft_beside(model).write_bytes(wrong.read_bytes())
    found = found_draft(entry_of_path(model))
    assert found.file is None and "taught to org/tiny: n_layers 5, the model has 4" in found.left_out
    with pytest.raises(ArtifactError, match="draft for another model"):
        found_draft(entry_of_path(model), wrong)


def test_core_ml_takes_no_draft(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = ["--draft", str(draft_beside(model)), "--target", "coreml", "--out", str(tmp_path / "out")]
    assert main(["export", str(model), *named]) == 2
    assert "--target coreml does not take --draft" in capsys.readouterr().err


def test_a_bundle_is_an_entry_with_its_draft(tmp_path: Path) -> None:
    draft = entry_of_path(write_drafted_bundle(tmp_path / "b")).draft
    assert draft is not None
    assert (draft.kind, draft.file, draft.n_bytes, draft.n_taps, draft.n_ranked) == ("feature", "", 0, 3, 200)
    assert draft.agreement == DRAFT.agreement
    assert entry_of_path(write_bundle(tmp_path / "plain")).draft is None


def test_show_names_the_draft(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(write_drafted_bundle(tmp_path / "b"))]) == 0
    shown = capsys.readouterr().out
    assert "feature, taught to Somebody/Base-1B" in shown and "a part of the bundle" in shown


def test_a_plan_for_a_phone_counts_the_draft(model: Path) -> None:
    storage = Storage("fp32", draft=found_draft(entry_of_path(model)).file)
    plain, drafted = (plan_export(model, how, "iphone-15-pro") for how in (Storage("fp32"), storage))
    assert drafted.speculation.drafters == ("lookup", "feature") and len(drafted.files) == 1
    matrices = 128 * (2 * 128 + 2 * 64 + 3 * 256) + 5 * 128 * 128 + 224 * 128  # of the layer, its inputs and its head
    assert drafted.estimate.weight_bytes - plain.estimate.weight_bytes == 4 * matrices + 20_000
    kept = 512 * 3 * 128 * 4  # tapped states
    assert drafted.estimate.draft_bytes == kept + drafted.window.slots * 2 * 64 * 4


@pytest.mark.parametrize("ids", [[*range(199), 0], [*range(199), 288], [*range(199), -1]])
def test_ranked_tokens_must_be_tokens_of_the_model(tmp_path: Path, ids: list[int]) -> None:
    folder = write_drafted_bundle(tmp_path / "b")
    assert list(ranked_tokens(check_bundle(folder))) == list(range(200))
    write_ranked_tokens(folder, np.array(ids, np.int32))
    with pytest.raises(ArtifactError, match="must name each token once, from 0 to 287"):
        ranked_tokens(check_bundle(folder))


@needs_export
def test_verify_replays_with_the_draft(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = bundle_of(model, "fp32")
    assert set(check_bundle(bundle).manifest.methods) == {"forward", "draft_known", "draft_input", "draft_layer"}
    assert main(["verify", str(bundle)]) == 0
    assert "by the feature draft that was taught to org/tiny" in capsys.readouterr().out


@needs_export
def test_a_program_with_another_draft_is_refused(model: Path, tmp_path: Path) -> None:
    from edgeinfer.backends.executorch.bundle import load_bundle

    folder = tmp_path / "b"
    shutil.copytree(bundle_of(model, "fp32"), folder)
    manifest = check_bundle(folder).manifest
    assert manifest.draft is not None
    write_ranked_tokens(folder, np.arange(100, dtype=np.int32))
    files = {**manifest.files, DRAFT_TOKENS: file_of(folder / DRAFT_TOKENS)}
    write_manifest(folder, replace(manifest, files=files, draft=replace(manifest.draft, n_ranked=100)))
    with pytest.raises(ArtifactError, match="the manifest says draft_n_ranked 100, the program 224"):
        load_bundle(folder)
