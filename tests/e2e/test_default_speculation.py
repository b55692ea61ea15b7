"""Speculation without any flag: drafts, the tokens of plain decoding, and a note where drafting is off."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

import edgeinfer
from edgeinfer.backends.gguf import threads
from edgeinfer.backends.gguf.facts import LlamaCppFacts
from edgeinfer.backends.gguf.model import GgufModel
from edgeinfer.cli.main import parser_of
from edgeinfer.cli.options import request_from, take_name
from edgeinfer.decode import drafting
from edgeinfer.decode.policy.costs import RowCosts
from edgeinfer.types import GREEDY
from tests.tiny_gguf import Tiny, write_tiny

ROWS_FREE = RowCosts({1: 0.010, 16: 0.011}, {1: 0.008, 16: 0.010}, {1: 0.010, 16: 0.011}, 0.001)
ASK = "Repeat this sentence: The old tower stands on the hill, and the river runs past the old tower."


@pytest.fixture(autouse=True)
def own_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def answer(request: edgeinfer.Request) -> edgeinfer.Answer:
    with edgeinfer.load(request) as model:
        return model.chat(sampling=GREEDY, max_tokens=60).ask(ASK)


def test_chat_drafts_by_default_and_gives_the_tokens_of_plain_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "calibrate", lambda *_, **__: ROWS_FREE)
    args = parser_of("chat").parse_args(["--model", "demo"])
    take_name(args)
    request = request_from(args)
    drafted = answer(request)
    assert drafted.stats.accepted > 0
    assert {"lookup", "early-exit"} <= set(drafted.stats.arms)
    plain = answer(edgeinfer.Request(model="demo", speculation="off"))
    assert plain.stats.drafted == 0
    assert drafted.tokens == plain.tokens


def test_a_failed_self_test_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GgufModel, "_self_test", lambda _: "the rows are upside down")
    with edgeinfer.load("demo") as model:
        assert model.notes == ("no drafts from early layers: the self-test failed, the rows are upside down",)


def test_costs_are_measured_once_for_each_engine_and_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []

    def counted(*_: object, **__: object) -> RowCosts:
        measured.append(1)
        return ROWS_FREE

    monkeypatch.setattr(drafting, "calibrate", counted)
    monkeypatch.setattr(threads, "fastest_threads", lambda *_: 1)
    for _ in range(2):
        edgeinfer.load("demo").close()
    assert len(measured) == 1
    monkeypatch.setattr(LlamaCppFacts, "engine_version", lambda _: "another")
    edgeinfer.load("demo").close()
    assert len(measured) == 2
    monkeypatch.setattr(threads, "fastest_threads", lambda *_: 2)
    edgeinfer.load("demo").close()
    assert len(measured) == 3


def test_a_draft_model_drafts_and_changes_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The costs say that its drafts are free, because two tiny models cost the same."""

    def calibrate(*_: object, max_rows: int, **__: object) -> RowCosts:
        return RowCosts({1: 1e-5}) if max_rows == 1 else ROWS_FREE

    monkeypatch.setattr(drafting, "calibrate", calibrate)
    model = str(write_tiny(tmp_path / "tiny.gguf", Tiny(tier="Q8_0")))
    other = str(write_tiny(tmp_path / "other.gguf", Tiny(n_layers=2, exit_layer=None)))
    drafted = answer(edgeinfer.Request(model=model, speculation="draft", draft_model=other))
    assert drafted.stats.drafted > 0
    assert "draft" in drafted.stats.arms
    assert drafted.tokens == answer(edgeinfer.Request(model=model, speculation="off")).tokens
