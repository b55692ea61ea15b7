"""Sessions on a tiny random model and the reference backend: the parts together, with no engine to install."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer.backends.reference.model import ReferenceModel
from edgeinfer.errors import ArtifactBad, DownloadFailed, UsageError
from edgeinfer.plan.types import SpeculationPlan
from edgeinfer.runner.opening import MIXED_TENSORS, NO_TEMPLATE, Downloads, bring
from edgeinfer.types import GREEDY, Message, Sampling
from tests.tiny_gguf import Tiny, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf", Tiny())


def request_for(model: Path) -> edgeinfer.Request:
    return edgeinfer.Request(
        model=str(model), backend="reference", context=512, sink=64, speculation="off", min_tokens_per_s=0.001
    )


@pytest.fixture
def session(model: Path) -> Iterator[edgeinfer.Session]:
    with edgeinfer.open(request_for(model)) as opened:
        yield opened


def say(session: edgeinfer.Session, messages: str | list[Message], max_tokens: int = 12) -> str:
    return "".join(session.stream(messages, sampling=GREEDY, max_tokens=max_tokens))


def test_a_draft_model_that_the_plan_has_no_use_for_is_refused(model: Path) -> None:
    plain = request_for(model)
    asked = dataclasses.replace(plain, draft_model=str(model))
    for what, draft in ((edgeinfer.choose(plain), str(model)), (plain, str(model)), (asked, "")):
        with pytest.raises(UsageError, match="speculation is off"):
            edgeinfer.open(what, draft=draft)


def test_a_draft_model_named_to_open_is_one_of_the_request(model: Path) -> None:
    plain = request_for(model)
    request = dataclasses.replace(plain, speculation="draft")
    with edgeinfer.open(request, draft=str(model)) as drafted, edgeinfer.open(plain) as alone:
        assert drafted.plan.speculation.drafters == ("draft",)
        assert say(drafted, "rain") == say(alone, "rain")


def test_it_opens_exactly_what_choose_chose(model: Path) -> None:
    plan = edgeinfer.choose(request_for(model))
    with edgeinfer.open(plan) as session:
        assert session.plan is plan
    with edgeinfer.open(request_for(model)) as session:
        same_machine = dataclasses.replace(session.plan, device=plan.device, budget_bytes=plan.budget_bytes)
        assert dataclasses.replace(same_machine, reasons=plan.reasons) == plan


@pytest.mark.parametrize(
    ("drafters", "promised", "holds", "said"),
    [(("lookup",), True, True, False), (("lookup",), True, False, True), (("lookup",), False, False, False),
     ((), True, False, False)],
)  # fmt: skip
def test_a_file_that_does_not_hold_what_its_tier_promises_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch, drafters: tuple[str, ...], promised: bool, holds: bool, said: bool
) -> None:
    if not holds:
        monkeypatch.setattr(ReferenceModel, "exact_rows", None)
    speculation = SpeculationPlan("lookup", drafters, max_rows=4, exact=promised)
    plan = dataclasses.replace(edgeinfer.choose(request_for(model)), speculation=speculation)
    with edgeinfer.open(plan) as session:
        assert (MIXED_TENSORS in session.notes) is said


def test_the_second_turn_runs_only_what_is_new(session: edgeinfer.Session) -> None:
    first = say(session, "the rain")
    n_first = session.stats.prompt
    assert session.stats.reused == 0
    answer_and_question = [Message("user", "the rain"), Message("assistant", first), Message("user", "again")]
    say(session, answer_and_question)
    stats = session.stats
    assert stats.reused >= n_first + 11  # the prompt, and every token of the answer but the last, which was not run
    assert stats.reused + stats.prefilled == stats.prompt
    assert stats.reprefilled == 0


def test_two_turns_say_what_a_fresh_session_says(session: edgeinfer.Session, model: Path) -> None:
    talk = [Message("user", "the rain"), Message("assistant", say(session, "the rain")), Message("user", "again")]
    second = say(session, talk)
    with edgeinfer.open(request_for(model)) as fresh:
        first = "".join(fresh.stream("the rain", sampling=GREEDY, max_tokens=12))
        assert first == talk[1].content
        assert say(fresh, talk) == second


def test_a_reader_who_walks_away_leaves_the_session_whole(session: edgeinfer.Session) -> None:
    whole = say(session, "the rain")
    pieces = session.stream("the rain", sampling=GREEDY, max_tokens=12)
    next(pieces)
    pieces.close()
    assert session.stats.finish == "canceled"
    assert say(session, "the rain") == whole


def test_a_seed_gives_the_same_answer(session: edgeinfer.Session) -> None:
    warm = Sampling(temperature=1.0, seed=7)
    answers = ["".join(session.stream("rain", sampling=warm, max_tokens=12)) for _ in range(2)]
    other = "".join(session.stream("rain", sampling=dataclasses.replace(warm, seed=8), max_tokens=12))
    assert answers[0] == answers[1] != other


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "must end with a message of the user"),
        ([Message("assistant", "x")], "must end with a message of the user"),
        ([Message("user", "x"), Message("system", "y"), Message("user", "z")], "can only come first"),
        ([{"role": "tool", "content": "x"}], "needs a `role`"),
        ([{"role": "user"}], "needs a `role`"),
        ("a\ud800b", "UTF-8"),
    ],
)
def test_what_is_no_conversation_is_refused(
    session: edgeinfer.Session, messages: str | list[Message], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        session.stream(messages)


def test_mappings_are_messages(session: edgeinfer.Session) -> None:
    said = "".join(session.stream([{"role": "user", "content": "the rain"}], sampling=GREEDY, max_tokens=12))
    assert said == say(session, "the rain")


def test_closing_twice_and_asking_after(model: Path) -> None:
    session = edgeinfer.open(request_for(model))
    session.close()
    session.close()
    with pytest.raises(UsageError, match="closed"):
        session.stream("x")


@pytest.mark.parametrize("read", [0, 2])
def test_an_answer_that_is_read_on_after_closing_says_so(model: Path, read: int) -> None:
    """The model's memory is free by then."""
    session = edgeinfer.open(request_for(model))
    pieces = session.stream("the rain", sampling=GREEDY, max_tokens=40)
    for _ in range(read):
        next(pieces)
    session.close()
    with pytest.raises(UsageError, match="closed"):
        list(pieces)


def test_a_missing_template_is_said(tmp_path: Path) -> None:
    import gguf

    model = write_tiny(tmp_path / "bare.gguf", Tiny())
    raw = model.read_bytes()
    key = gguf.Keys.Tokenizer.CHAT_TEMPLATE.encode()
    model.write_bytes(raw.replace(key, key[:-1] + b"X"))  # the same length, another key
    with edgeinfer.open(request_for(model)) as session:
        assert session.notes == (NO_TEMPLATE,)
        assert say(session, "the rain")


def test_another_template_may_be_given(model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_text("{{ messages[0].content }}!")
    with edgeinfer.open(request_for(model), template=str(mine)) as session:
        say(session, "rain")
        assert session.stats.prompt < 6
    with edgeinfer.open(request_for(model), template="chatml") as session:
        assert session.notes == ()


@pytest.mark.parametrize("content", [b"\xff", b"{% for %}"])
def test_a_bad_template_opens_nothing(model: Path, tmp_path: Path, content: bytes) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.jinja"):
        edgeinfer.open(request_for(model), template=str(mine))


def test_a_file_that_is_not_what_it_says_never_opens(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ArtifactBad):
        edgeinfer.open(request_for(bad))


def test_offline_a_missing_file_is_said_and_nobody_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan = edgeinfer.choose(edgeinfer.Request(model="smollm2-135m", backend="gguf", tier="Q8_0", force=True))

    def never(_: edgeinfer.Plan) -> None:
        raise AssertionError("asked")

    with pytest.raises(DownloadFailed, match="is not on this machine") as caught:
        bring(plan, Downloads(offline=True, ask=never))
    assert "edgeinfer pull smollm2-135m" in caught.value.hint


def test_the_public_names() -> None:
    assert sorted(edgeinfer.__all__) == edgeinfer.__all__
    for name in edgeinfer.__all__:
        assert getattr(edgeinfer, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        edgeinfer.nonsense  # noqa: B018
