"""A drafter added to the list appears in the flag, the plan, the decoder and the stats."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer.cli.main import parser_of
from edgeinfer.cli.options import request_from, take_name
from edgeinfer.decode import drafters
from edgeinfer.decode.drafting import new_drafting
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.errors import UsageError
from edgeinfer.plan import Plan, Request, explain, make_plan
from edgeinfer.plan.speculation import DrafterFacts
from edgeinfer.types import Prompt, Sampling
from tests.tiny_gguf import Tiny, write_tiny
from tests.unit.plan_things import GGUF, artifact, catalog, device, model
from tests.unit.toy_drafter import ECHO


@pytest.fixture
def with_echo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafters, "DRAFTERS", (*drafters.DRAFTERS, ECHO))


def plan_of(tier: str = "Q4_0", **how: object) -> Plan:
    entry = replace(model("tiny", 1, artifact(0.5, tier, tensors=(tier,))), exit_layer=3)
    small = model("small", 2, artifact(0.1, tier))
    request = Request(model="tiny", **how)  # type: ignore[arg-type]
    return make_plan(device(), catalog(entry, small), [GGUF], request, drafters=drafters.drafter_facts())


def test_drafter_names_are_unique_and_are_not_modes() -> None:
    modes = drafters.speculation_modes()
    assert len(set(modes)) == len(modes)
    assert modes[:2] == ("auto", "off")


def test_an_added_drafter_is_a_choice_of_the_flag(with_echo: None) -> None:
    args = parser_of("chat").parse_args(["--speculation", "echo"])
    take_name(args)
    assert request_from(args).speculation == "echo"
    assert "draft or echo" in " ".join(parser_of("chat").format_help().split())


def test_without_the_toy_drafter_the_flag_refuses_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises((SystemExit, UsageError)):
        parser_of("chat").parse_args(["--speculation", "echo"])


def test_an_added_drafter_is_in_the_plan_and_its_note(with_echo: None) -> None:
    plan = plan_of()
    assert plan.speculation.drafters == ("lookup", "early-exit", "echo")
    assert "the last token of Tiny again" in "\n".join(explain(plan))
    assert plan_of(speculation="echo").speculation.drafters == ("echo",)


@pytest.mark.parametrize("mode", ["auto", "echo"])
def test_an_added_drafter_drafts_and_appears_in_the_stats(with_echo: None, tmp_path: Path, mode: str) -> None:
    from edgeinfer.backends.reference import load_gguf

    loaded = load_gguf(write_tiny(tmp_path / "tiny.gguf", Tiny()))
    plan = plan_of(speculation=mode)
    costs = Costs(RowCosts({1: 0.01, 16: 0.02}, {1: 0.01, 16: 0.02}, {1: 0.01, 16: 0.02}, 1.0), 16)
    drafting = new_drafting(loaded, plan, costs)
    decoder = Decoder(loaded, plan.window, controller=drafting.controller, drafters=drafting.drafters)
    plain = Decoder(loaded, plan.window)
    told = [
        list(one.stream(Prompt((5, 6, 7)), Sampling(), max_tokens=40, stop_tokens=frozenset()))
        for one in (decoder, plain)
    ]
    assert told[0] == told[1]
    assert decoder.stats.arms["echo"].drafted > 0
    for one in (decoder, plain, drafting, loaded):
        one.close()


def test_a_request_may_name_any_drafter(monkeypatch: pytest.MonkeyPatch, with_echo: None) -> None:
    assert "echo" in edgeinfer.choose("demo", device="macbook-air-m2-16gb").speculation.drafters


def test_the_note_says_what_is_tried_and_what_it_may_gain() -> None:
    assert plan_of().speculation.note == (
        "prompt lookup for repeated text (about 1.3x on copied text), early exit after layer 3 of 10 while it is "
        "confident; plain decoding where that is faster; same tokens as plain decoding"
    )
    drafted = plan_of(speculation="draft", draft_model="small", kv_type="f16").speculation.note
    assert drafted == (
        "drafts from small while it is confident; plain decoding where that is faster; same tokens up to rounding"
    )


def test_only_measured_gains_are_claimed() -> None:
    named = replace(device(), cpu_features=frozenset())
    entry = model("tiny", 1, artifact(0.5, "Q4_0", tensors=("Q4_0",)))
    plan = make_plan(named, catalog(entry), [GGUF], Request(), drafters=drafters.drafter_facts())
    assert plan.speculation.drafters == ("lookup",)
    assert "copied" not in plan.speculation.note


@pytest.mark.parametrize(
    ("tier", "tensors", "max_rows", "exact", "gain"),
    [
        ("Q4_K_M", ("Q4_K", "Q6_K"), 3, True, " (about 1.1x on copied text)"),
        ("Q4_K_M", ("Q8_0", "Q5_0", "Q4_K", "Q6_K"), 3, True, ""),  # 640 columns are not a multiple of 256
        ("Q4_1", ("Q4_1", "Q8_0"), 16, True, ""),
        ("Q4_0", ("Q8_0",), 16, True, " (about 1.5x on copied text)"),
        ("Q4_0", (), 16, False, ""),  # a file whose header was not read
    ],
)
def test_rows_and_gains_follow_from_the_tensors_and_never_from_the_name_of_the_tier(
    tier: str, tensors: tuple[str, ...], max_rows: int, exact: bool, gain: str
) -> None:
    entry = model("tiny", 1, artifact(0.5, tier, tensors=tensors))
    plan = make_plan(device(), catalog(entry), [GGUF], Request(), drafters=drafters.drafter_facts())
    found, tokens = plan.speculation, "same tokens as plain decoding" if exact else "same tokens up to rounding"
    assert (found.max_rows, found.exact) == (max_rows, exact)
    assert found.note == f"prompt lookup for repeated text{gain}; plain decoding where that is faster; {tokens}"


def test_a_local_file_is_read_for_its_tensor_types() -> None:
    plan = edgeinfer.choose(Request(model="demo", backend="gguf"), device="laptop-x86-32gb")
    assert plan.artifact.tensors == (("Q4_0", 25_952_256),)
    assert plan.speculation.exact


def test_without_a_possible_drafter_the_note_says_so() -> None:
    facts = DrafterFacts("other", lambda _: "other", needs="draft model")
    plan = make_plan(device(), catalog(model("tiny", 1, artifact(0.5))), [GGUF], Request(), drafters=[facts])
    assert (plan.speculation.drafters, plan.speculation.note) == ((), "no drafter is possible: plain decoding")
    with pytest.raises(UsageError, match="no drafter named echo"):
        plan_of(speculation="echo")
