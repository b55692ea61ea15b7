"""Each drafter, and the controller, gives the tokens of plain decoding on a tiny model, also past evictions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edgeinfer.backends.reference import load_gguf
from edgeinfer.decode import drafting
from edgeinfer.decode.drafters import DRAFTERS
from edgeinfer.decode.drafters.draft_model import DraftModel
from edgeinfer.decode.drafters.gated import Gated
from edgeinfer.decode.drafters.lookup import Lookup
from edgeinfer.decode.drafting import Drafting, OpenedDraftModel, check_same_tokens, measure, new_drafting
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.arms import Arm, Controller, Fixed
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.plan import make_plan
from edgeinfer.plan.types import Plan, Request, SpeculationPlan
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Drafter, Model
from edgeinfer.types import GREEDY, Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.conformance.forced import Breaking
from tests.tiny_gguf import Tiny, write_tiny
from tests.unit.plan_things import GGUF, artifact, catalog, device
from tests.unit.plan_things import model as an_entry

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=128)
SMALLER = WindowPolicy(window=64, sink=0, block=16, limit=96)
ROWS_FREE = RowCosts({1: 1e-3, 2: 1e-3}, {1: 1e-3, 2: 1e-3}, {1: 1e-3, 2: 1e-3}, 1e-6, 1e-6)
TAUGHT = ("exit draft", "feature draft")  # tests/conformance has their models
HOW = [GREEDY, Sampling(temperature=0.8, seed=3)]
N = 110


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    loaded = load_gguf(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf", Tiny()), exit_layer=2)
    yield loaded
    loaded.close()


def prompt() -> Prompt:
    return Prompt(tuple((index * 7) % 23 + 40 for index in range(30)))


def answer(
    model: Model, how: Sampling, controller: Controller, drafters: dict[str, Drafter]
) -> tuple[list[int], Decoder]:
    decoder = Decoder(model, POLICY, controller=controller, drafters=drafters)
    try:
        return list(decoder.stream(prompt(), how, max_tokens=N, stop_tokens=frozenset())), decoder
    finally:
        decoder.close()


def plain(model: Model, how: Sampling) -> list[int]:
    return answer(model, how, Fixed(), {})[0]


def a_plan(*drafters: str, mode: str = "auto", max_rows: int = 8) -> Plan:
    full = make_plan(device(), catalog(an_entry("tiny", 1, artifact(0.5))), [GGUF], Request(model="tiny"))
    return replace(full, window=POLICY, speculation=SpeculationPlan(mode, drafters, max_rows=max_rows))


def new(model: Model, plan: Plan, draft: OpenedDraftModel | None = None) -> Drafting:
    return new_drafting(model, plan, Costs(ROWS_FREE, plan.speculation.max_rows), draft=draft)


@pytest.mark.parametrize("how", HOW, ids=["greedy", "sampled"])
@pytest.mark.parametrize("name", [kind.name for kind in DRAFTERS if kind.facts.needs not in TAUGHT])
def test_every_drafter_gives_the_tokens_of_plain_decoding(model: Model, name: str, how: Sampling) -> None:
    plan = a_plan(name, mode=name)
    made = new(model, plan, OpenedDraftModel(model, plan, SMALLER.limit))
    tokens, decoder = answer(model, how, Fixed(Arm(name, 5)), dict(made.drafters))
    made.close()
    assert tokens == plain(model, how)
    arm = decoder.stats.arms[name]
    assert arm.accepted > 0
    assert arm.accepted < arm.drafted or name == "draft"
    assert decoder.stats.evicted > 3 * POLICY.block
    assert decoder.stats.reanchored


@pytest.mark.parametrize("how", HOW, ids=["greedy", "sampled"])
def test_a_draft_model_equal_to_the_target_is_right_while_their_windows_agree(model: Model, how: Sampling) -> None:
    """Misses would show that it does not catch up, or that its drafts have the noise of another index."""
    source = DraftModel(model, POLICY)
    decoder = Decoder(
        model, POLICY, controller=Fixed(Arm("draft", 4)), drafters={"draft": Gated(source, Costs(ROWS_FREE, 16))}
    )
    tokens = list(decoder.stream(prompt(), how, max_tokens=60, stop_tokens=frozenset()))
    arm = decoder.stats.arms["draft"]
    assert len(tokens) == 60
    assert arm.accepted == arm.drafted > (30 if how.temperature == 0 else 10)
    decoder.close()
    source.close()


def begin(source: DraftModel, context: list[int]) -> None:
    source.reset(context)
    source.start(None)  # type: ignore[arg-type]  # greedy: the round is not used


def test_a_draft_model_follows_a_change_of_conversation(model: Model) -> None:
    source = DraftModel(model, POLICY)
    begin(source, [40, 41, 42, 43])
    first = source.draft(43).argmax()
    begin(source, [50, 51])
    source.draft(51)
    begin(source, [40, 41, 42, 43])
    assert source.draft(43).argmax() == first
    source.close()


def test_past_its_limit_a_draft_model_keeps_the_newest_half_window(model: Model) -> None:
    """Its row equals that of a model that has run only these tokens."""
    source, cache = DraftModel(model, POLICY), model.new_cache(POLICY)
    context = list(range(3, 258))
    begin(source, context)
    prefill(cache, context[-1 - POLICY.window // 2 : -1])
    expected = prefill(cache, context[-1:]).numpy().copy()
    assert (source.draft(context[-1]).numpy() == expected).all()
    source.close()
    cache.close()


def test_a_draft_model_rewinds_to_where_its_drafts_were_wrong(model: Model) -> None:
    used, fresh = DraftModel(model, POLICY), DraftModel(model, POLICY)
    begin(used, [40, 41, 42, 43])
    for token in (43, 60, 99, 98):
        used.draft(token)
    used.extend([60, 61])
    used.start(None)  # type: ignore[arg-type]
    begin(fresh, [40, 41, 42, 43, 60, 61])
    assert (used.draft(61).numpy() == fresh.draft(61).numpy()).all()
    used.close()
    fresh.close()


def test_a_short_conversation_after_a_long_one_is_run_from_its_start(model: Model) -> None:
    used, fresh = DraftModel(model, POLICY), DraftModel(model, POLICY)
    begin(used, list(range(3, 250)))  # past its limit: the first tokens are left out
    used.draft(249)
    for source in (used, fresh):
        begin(source, [40, 41, 42])
    assert (used.draft(42).numpy() == fresh.draft(42).numpy()).all()
    used.close()
    fresh.close()


def test_a_draft_model_that_failed_once_drafts_again(model: Model) -> None:
    broken = Breaking(model, "verify", 4)
    decoder = Decoder(
        model,
        POLICY,
        controller=Fixed(Arm("draft", 4)),
        drafters={"draft": Gated(DraftModel(broken, SMALLER), Costs(ROWS_FREE, 16))},
    )
    with pytest.raises(EngineError, match="gave up"):
        list(decoder.stream(prompt(), GREEDY, max_tokens=60, stop_tokens=frozenset()))
    tokens = list(decoder.stream(prompt(), GREEDY, max_tokens=60, stop_tokens=frozenset()))
    assert tokens == plain(model, GREEDY)[:60]
    assert decoder.stats.accepted > 10
    decoder.close()


class Words:
    def __init__(self, n_vocab: int, shift: int = 0, stop: int = 2) -> None:
        self.n_vocab, self.shift, self.stop_tokens = n_vocab, shift, frozenset({stop})

    def piece(self, token: int) -> bytes:
        return b"%d" % (token + (self.shift if token > 2000 else 0))


@pytest.mark.parametrize(
    ("other", "what"),
    [(Words(5001), "5001 tokens"), (Words(5000, shift=1), "differs"), (Words(5000, stop=3), "stop tokens")],
)
def test_a_draft_model_with_another_vocabulary_is_refused(other: Words, what: str) -> None:
    check_same_tokens(Words(5000), Words(5000))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=what):
        check_same_tokens(Words(5000), other)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", HOW, ids=["greedy", "sampled"])
def test_auto_with_every_drafter_gives_the_tokens_of_plain_decoding(model: Model, how: Sampling) -> None:
    plan = a_plan("lookup", "early-exit", "draft")
    made = new(model, plan, OpenedDraftModel(model, plan, POLICY.limit))
    tokens, decoder = answer(model, how, made.controller, dict(made.drafters))
    made.close()
    assert tokens == plain(model, how)
    assert decoder.stats.accepted > 0
    assert set(decoder.stats.arms) > {"none"}


def test_a_plan_names_the_drafters_of_a_conversation(model: Model) -> None:
    assert measure(model, a_plan(mode="off")) is None
    assert measure(model, a_plan("lookup", max_rows=1)) is None
    assert new_drafting(model, a_plan(mode="off"), None).drafters == {}
    assert set(new(model, a_plan("lookup", "early-exit")).drafters) == {"lookup", "early-exit"}
    assert set(new(model, a_plan("lookup", mode="lookup")).drafters) == {"lookup"}
    with pytest.raises(UsageError, match="draft model"):
        measure(model, a_plan("draft", mode="draft"))


def test_conversations_share_costs_but_not_what_they_learned(model: Model) -> None:
    plan = a_plan("lookup", "early-exit")
    costs = Costs(ROWS_FREE, 8)
    first, second = (new_drafting(model, plan, costs) for _ in range(2))
    told = answer(model, HOW[0], first.controller, dict(first.drafters))[0]
    assert first.controller.plain_s == second.controller.plain_s != ROWS_FREE.plain_s
    assert not set(map(id, first.drafters.values())) & set(map(id, second.drafters.values()))
    used, fresh = first.drafters["lookup"], second.drafters["lookup"]
    assert isinstance(used, Lookup) and isinstance(fresh, Lookup)
    assert used.rates.acceptance(4, bytes(1)) != fresh.rates.acceptance(4, bytes(1))
    assert fresh.rates.acceptance(4, bytes(1)) == Lookup().rates.acceptance(4, bytes(1))
    assert answer(model, HOW[0], second.controller, dict(second.drafters))[0] == told


def test_an_early_exit_that_the_file_lacks_is_left_out(tmp_path: Path) -> None:
    lacking = load_gguf(write_tiny(tmp_path / "tiny.gguf", Tiny(exit_layer=None)))
    assert set(new(lacking, a_plan("lookup", "early-exit")).drafters) == {"lookup"}
    lacking.close()


def test_a_draft_model_without_room_after_the_sink_is_refused(model: Model) -> None:
    plan = a_plan("draft")
    with pytest.raises(UsageError, match="the draft model has 10 positions"):
        new(model, plan, OpenedDraftModel(model, plan, POLICY.sink + 2))


def test_the_costs_of_both_models_are_measured_once(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    measured: list[int] = []

    def calibrate(_: Model, *, max_rows: int, **__: object) -> RowCosts:
        measured.append(max_rows)
        return RowCosts({1: 0.25, max_rows: 0.25})

    monkeypatch.setattr(drafting, "calibrate", calibrate)
    plan = a_plan("draft")
    for _ in range(2):
        costs = measure(model, plan, draft=OpenedDraftModel(model, plan, 64))
        assert costs is not None
        assert costs.ratio("model-draft") == 1.0
        assert costs.unit_s == 0.25
    assert measured == [8, 1]
