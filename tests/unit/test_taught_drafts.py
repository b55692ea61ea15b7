"""A taught draft from its file to the plan: where it is found, what it costs, and when it is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgeinfer
from edgeinfer.backends.taught import RankedRow, TapLog, TapTable
from edgeinfer.catalog import append_user_entry, load_catalog
from edgeinfer.cli.main import main
from edgeinfer.entries.files import entry_of_path
from edgeinfer.errors import ArtifactError, UsageError
from edgeinfer.plan import Plan, Request
from edgeinfer.plan.facts import TAPPED_ROWS
from edgeinfer.runner.choose import resolve
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a draft beside it."""
    path = write_tiny(tmp_path_factory.mktemp("taught") / "tiny.gguf", Tiny())
    write_tiny_draft(draft_beside(path), path, (1, 2, 4))
    return path


def plan_of(path: Path, **how: object) -> Plan:
    request = Request(model=str(path), backend="reference", context=512, force=True, **how)  # type: ignore[arg-type]
    return edgeinfer.choose(request, offline=True)


def test_a_draft_beside_the_model_is_planned_in_place_of_its_early_exit(model: Path) -> None:
    plan = plan_of(model)
    assert plan.speculation.drafters == ("lookup", "feature")
    assert "a taught draft while it is confident, right in 50% of first drafts" in plan.speculation.note
    assert [(file.role, Path(file.artifact.file).name) for file in plan.files] == [
        ("weights", "tiny.gguf"),
        ("taught draft", "tiny.draft.safetensors"),
    ]
    without = plan_of(model, speculation="lookup")
    assert (without.taught, without.estimate.draft_bytes) == (None, 0)
    layer = 4 * (3 * 128 * 256 + 2 * 128 * 128 + 2 * 64 * 128)  # its matrices in float32
    assert plan.estimate.draft_bytes > layer + 512 * 2 * 64 * 4 + TAPPED_ROWS * 3 * 128 * 4  # K/V, tapped states


def test_a_window_that_grew_counts_the_keys_of_the_draft_too(tmp_path: Path) -> None:
    long = write_tiny(tmp_path / "long.gguf", Tiny(limit=65536))
    write_tiny_draft(draft_beside(long), long, (1, 2, 4))

    def planned(context: int | None) -> Plan:
        request = Request(model=str(long), backend="reference", context=context, force=True, prefer="context")
        return edgeinfer.choose(request, device="raspberry-pi-5-8gb", offline=True)

    small, grown = planned(512), planned(None)
    more = grown.window.slots - small.window.slots
    assert grown.window.slots > 32768  # the settings that it was judged with
    assert grown.estimate.draft_bytes - small.estimate.draft_bytes == more * 2 * 64 * 4  # K and V, 2 heads of 32, f32


def test_a_named_draft_is_taken_and_one_of_another_model_is_refused(model: Path, tmp_path: Path) -> None:
    alone = write_tiny(tmp_path / "alone.gguf", Tiny(seed=5))
    assert plan_of(alone).taught is None
    named = plan_of(alone, draft_file=str(draft_beside(model)))
    assert named.taught is not None and named.taught.file == str(draft_beside(model).resolve())
    other = write_tiny(tmp_path / "other.gguf", Tiny(n_layers=3))
    with pytest.raises(ArtifactError, match=r"taught to org/tiny: n_layers 4, the model has 3"):
        plan_of(other, draft_file=str(draft_beside(model)))


def test_an_exit_draft_is_planned_with_the_layers_that_it_copies(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    write_tiny_draft(draft_beside(path), path, exit_layer=2)
    plan = plan_of(path)
    assert plan.speculation.drafters == ("lookup", "exit")
    assert plan.estimate.draft_bytes > 3 * 512 * 2 * 64 * 4  # K and V of three layers
    with pytest.raises(UsageError, match="no taught draft of this kind"):
        plan_of(path, speculation="feature")


def test_a_stale_draft_beside_the_model_is_named_and_left_out(model: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", Tiny(n_layers=3))
    draft_beside(other).write_bytes(draft_beside(model).read_bytes())
    plan = plan_of(other)
    assert (plan.taught, plan.speculation.drafters) == (None, ("lookup", "early-exit"))
    assert "no taught draft: other.draft.safetensors is a draft for another model" in (plan.speculation.note)
    with pytest.raises(ArtifactError, match="n_layers 4, the model has 3"):
        plan_of(other, draft_file=str(draft_beside(other)))


@pytest.mark.parametrize(
    ("how", "kind", "said"),
    [
        ({"model": "", "draft_file": "a.draft.safetensors"}, UsageError, "a draft is for one model"),
        ({"draft_file": "no-such.draft.safetensors"}, ArtifactError, "there is no draft no-such"),
        ({"speculation": "off", "draft_file": "here"}, UsageError, "speculation is off"),
    ],
)
def test_what_cannot_be_used_is_refused(model: Path, how: dict[str, str], kind: type[Exception], said: str) -> None:
    request = {"model": str(model), **how}
    if request.get("draft_file") == "here":
        request["draft_file"] = str(draft_beside(model))
    with pytest.raises(kind, match=said):
        edgeinfer.choose(Request(backend="reference", force=True, **request), offline=True)  # type: ignore[arg-type]


def test_conversations_share_the_weights_of_a_draft(model: Path) -> None:
    def draft_bytes(n: int) -> int:
        request = Request(model=str(model), backend="gguf", context=512, force=True, conversations=n)
        plan = edgeinfer.choose(request, device="raspberry-pi-5-8gb", offline=True)
        assert plan.taught is not None and plan.kv_type == "q8_0"
        return plan.estimate.draft_bytes

    of_each = 512 * 2 * (64 + 2 * 2) + TAPPED_ROWS * 3 * 128 * 4  # K and V, 2 heads of 32 in 8 bits; tapped states
    assert draft_bytes(4) - draft_bytes(1) == 3 * of_each
    assert draft_bytes(1) > 2 * of_each // 3


def test_the_catalog_names_a_draft(model: Path, tmp_path: Path) -> None:
    entry = entry_of_path(model, [])
    named = replace(
        entry, name="mine", artifacts=(replace(entry.artifacts[0], file="", repo="org/mine"),),
        draft_file=str(draft_beside(model)),
    )  # fmt: skip
    path = append_user_entry(named, tmp_path / "models.toml")
    catalog, _ = resolve(load_catalog(path), Request(model="mine"), offline=True)
    found = catalog.find("mine")
    assert found is not None and found.draft is not None
    assert (found.draft.kind, found.no_draft) == ("feature", "")
    path.write_text(path.read_text().replace("tiny.draft", "gone.draft"))
    catalog, _ = resolve(load_catalog(path), Request(model="mine"), offline=True)
    found = catalog.find("mine")
    assert found is not None and found.draft is None and "there is no draft" in found.no_draft


def test_show_says_what_the_draft_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(model)]) == 0
    assert "feature, taught to org/tiny, right by depth 0.50, 0.50" in capsys.readouterr().out


def test_show_says_why_a_draft_is_left_out(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = write_tiny(tmp_path / "other.gguf", Tiny(n_layers=3))
    draft_beside(other).write_bytes(draft_beside(model).read_bytes())
    assert main(["show", str(other)]) == 0
    assert "draft       not used: other.draft.safetensors is a draft for another model" in capsys.readouterr().out


def test_a_ranked_row_gives_only_its_tokens() -> None:
    row = RankedRow(np.array([0.5, 2.0], np.float32), np.array([3, 1], np.int32), 5)
    assert row.argmax() == 1
    assert row.numpy().tolist() == [-np.inf, 2.0, -np.inf, 0.5, -np.inf]


def test_the_log_returns_the_newest_states_and_zeros_for_older_ones() -> None:
    log = TapLog(TapTable(1))
    for start in range(0, TAPPED_ROWS + 2, 2):
        log.add([start, start + 1], np.array([[start + 1.0], [start + 2.0]], np.float32))
    assert (log.start, log.stop) == (2, TAPPED_ROWS + 2)
    assert log.tapped(1, 4).ravel().tolist() == [0.0, 3.0, 4.0]  # nothing is kept for position 1
    assert log.tokens(2, 4) == [2, 3]
    log.rewind(1)
    assert log.tapped(0, 1).ravel().tolist() == [0.0]
