"""`bench quality`: its arithmetic against hand-made cases, and one whole run on a tiny model."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from edgeinfer.bench.opened import OpenedModel, opened
from edgeinfer.bench.quality import tasks
from edgeinfer.bench.quality.measure import Reference, Result, _tokens, log_probs
from edgeinfer.bench.quality.report import on_frontier
from edgeinfer.catalog import load_catalog
from edgeinfer.cli.main import main
from edgeinfer.errors import UsageError
from edgeinfer.plan.types import Request
from tests.tiny_gguf import Tiny, write_tiny

RESULT = Result("m", "F16", "gguf", "f16", 100, 10.0, 0.0, 1.0, 0.5, 50.0, 0.1, 200)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("quality") / "tiny.F16.gguf", Tiny(tier="F16", late_gain=1.0))


def subject(tiny: Path) -> Request:
    return Request(model=str(tiny), backend="reference", context=512, speculation="off", force=True)


def test_a_file_that_no_other_beats_is_on_the_frontier() -> None:
    small = replace(RESULT, tier="Q8_0", kl=0.01, memory_bytes=120, tokens_per_s=70.0)
    worse = replace(RESULT, tier="Q5_0", kl=0.02, memory_bytes=130, tokens_per_s=60.0)
    fast = replace(RESULT, tier="Q4_0", kl=0.3, memory_bytes=90, tokens_per_s=65.0)
    every = [RESULT, small, worse, fast]
    assert [one.tier for one in on_frontier(every, "memory_bytes")] == ["F16", "Q8_0", "Q4_0"]
    assert [one.tier for one in on_frontier(every, "tokens_per_s")] == ["F16", "Q8_0"]
    assert on_frontier([RESULT, RESULT], "memory_bytes") == [RESULT, RESULT]


def test_each_row_is_the_distribution_of_the_next_token(tiny: Path) -> None:
    with opened(subject(tiny)) as model:
        tokens = [5, 6, 7, 8, 9, 10] * 6  # more rows than one round
        rows = log_probs(model, tokens)
        cache = model.model.new_cache(model.plan.window)
        step = cache.begin(3)
        row = step.verify(tokens[:3])[2].numpy().astype(np.float64)
        step.rollback()
        cache.close()
    assert len(rows) == len(tokens) - 1
    assert np.exp(rows).sum(axis=1) == pytest.approx(1.0, abs=1e-4)
    assert rows[2] == pytest.approx(row - np.logaddexp.reduce(row), abs=1e-4)


class Words:
    """A tokenizer of whole words for a model with a BOS token."""

    bos_text = "<s>"

    def encode(self, text: str, *, special: bool) -> list[int]:
        return [0] if special else [len(word) for word in text.split()]


def test_a_text_begins_with_a_bos_where_the_model_has_one() -> None:
    subject = cast("OpenedModel", SimpleNamespace(model=SimpleNamespace(tokenizer=Words())))
    assert _tokens(subject, Reference("a text of words", 4)) == [0, 1, 4, 2]
    with pytest.raises(UsageError, match="the text has 5 tokens; 6 were asked for"):
        _tokens(subject, Reference("a text of words", 6))


def test_a_choice_scores_the_log_probability_of_its_tokens_after_the_prompt(tiny: Path) -> None:
    prompt, choice = [5, 6, 7, 8], [9, 10]
    with opened(subject(tiny)) as model:
        rows = log_probs(model, [*prompt, *choice])
        cache = model.model.new_cache(model.plan.window)
        for _ in range(2):  # the second one finds the prompt in the cache
            assert tasks._score(cache, prompt, choice) == pytest.approx((rows[3][9] + rows[4][10]) / 2, abs=1e-3)
        cache.close()


def test_a_task_is_solved_when_its_first_choice_scores_best(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = tasks.load_tasks()
    assert len(known) == 30
    assert all(len(set(task.choices)) == 4 for task in known)
    with opened(subject(tiny)) as model:
        scores = iter([0.0, -1.0, -2.0, -3.0] * 20 + [-1.0, 0.0, -2.0, -3.0] * 10)
        monkeypatch.setattr(tasks, "_score", lambda *_: next(scores))
        assert tasks.share_of_right(model) == pytest.approx(20 / 30)


def test_a_whole_run_with_tiers_and_a_sweep(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("llama_cpp")
    out = tmp_path / "quality.md"
    words = ["--tier", "Q8_0", "--tier", "Q4_0", "--kv-type", "q8_0", "--layers", "Q4_0", "--tokens", "64"]
    assert main(["bench", "quality", "--model", str(tiny), *words, "--json", "--out", str(out)]) == 0
    best, q8, q4, kv = map(json.loads, capsys.readouterr().out.splitlines())
    assert (best["tier"], best["kl"], best["top1"]) == ("F16", 0.0, 1.0)
    assert 0 < q8["kl"] < q4["kl"]
    assert q8["n_bytes"] > q4["n_bytes"]
    assert (kv["tier"], kv["kv_type"]) == ("F16", "q8_0") and 0 < kv["kl"] < q4["kl"]
    report = out.read_text()
    assert all(f"| {name} | " in report for name in ("embedding and head", "layer 0", "layer 3"))
    assert str(tmp_path) not in report and str(tiny.parent) not in report
    figures = json.loads(out.with_suffix(".json").read_text())
    assert [one["tier"] for one in figures["results"]] == ["F16", "Q8_0", "Q4_0", "F16"]
    # nothing restored, then the embedding with the head, then each of four layers
    assert len(figures["layers"]) == 6


def test_backends_are_compared_and_one_that_cannot_run_is_named(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("llama_cpp")
    out = tmp_path / "quality.md"
    words = [
        "--backend",
        "gguf",
        "--backend",
        "reference",
        "--backend",
        "executorch",
        "--backend",
        "mlx",
        "--tokens",
        "64",
    ]
    assert main(["bench", "quality", "--model", str(tiny), *words, "--json", "--out", str(out)]) == 0
    first, other = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["backend"], other["backend"], other["kv_type"]) == ("gguf", "reference", "f32")
    assert other["kl"] < 1e-3 and other["top1"] > 0.95
    assert "\nLeft out: tiny.F16.gguf on executorch: " in out.read_text()
    if sys.platform != "darwin":
        assert "\nLeft out: tiny.F16.gguf on mlx: " in out.read_text()


def test_tiers_are_ordered_by_their_measured_losses() -> None:
    """docs/quality-demo.json, made by `bench quality`: a tier that loses less has a higher order in models.toml."""
    figures = json.loads((Path(__file__).parents[2] / "docs" / "quality-demo.json").read_text())
    tiers = load_catalog().tiers
    loss = {one["tier"]: one["kl"] for one in figures["results"] if (one["backend"], one["kv_type"]) == ("gguf", "f16")}
    measured = sorted(loss.keys() & tiers.keys(), key=lambda name: loss[name])
    assert len(measured) >= 10
    assert measured == sorted(measured, key=lambda name: -tiers[name].order)
    assert len({tiers[name].order for name in measured}) == len(measured), "no two share a place"
