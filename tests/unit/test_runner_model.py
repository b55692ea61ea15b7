"""Loaded models and conversations, on a tiny random model with the reference backend, so no engine is needed."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import edgeinfer
from edgeinfer.errors import ArtifactError, DownloadError, UsageError
from edgeinfer.runner.opening import NO_TEMPLATE, Downloads, bring
from edgeinfer.types import GREEDY, Message, Sampling, ToolCall
from tests.tiny_gguf import Tiny, write_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf", Tiny())


def request_for(model: Path) -> edgeinfer.Request:
    return edgeinfer.Request(
        model=str(model), backend="reference", context=512, sink=64, speculation="off", min_tokens_per_s=0.001
    )


@pytest.fixture
def loaded(model: Path) -> Iterator[edgeinfer.LoadedModel]:
    with edgeinfer.load(request_for(model)) as loaded:
        yield loaded


def say(loaded: edgeinfer.LoadedModel, messages: str | list[Message], max_tokens: int = 12) -> edgeinfer.Answer:
    return loaded.stream(messages, sampling=GREEDY, max_tokens=max_tokens).finish()


def test_a_draft_model_that_the_plan_has_no_use_for_is_refused(model: Path) -> None:
    plain = request_for(model)
    with pytest.raises(UsageError, match="speculation is off"):
        edgeinfer.choose(dataclasses.replace(plain, draft_model=str(model)))
    plan = edgeinfer.choose(plain)
    with pytest.warns(DeprecationWarning), pytest.raises(UsageError, match="opens no draft model"):
        edgeinfer.open(plan, draft=str(model))


def test_calls_of_a_loaded_conversation_are_not_lost_where_the_template_knows_none(
    loaded: edgeinfer.LoadedModel,
) -> None:
    with loaded.chat(sampling=GREEDY, max_tokens=3) as chat:
        called = Message("assistant", "", tool_calls=(ToolCall("get_weather", '{"city": "Oslo"}', "1"),))
        chat.messages = [Message("user", "Weather?"), called, Message("tool", "Sunny", call_id="1")]
        chat.ask("And now?")
        decoder: Any = chat._conversation._decoder
        prompt = b"".join(map(loaded.tokenizer.piece, decoder.tokens)).decode("utf-8", "replace")
    assert prompt.index("Weather?") < prompt.index('"get_weather", "arguments": {"city": "Oslo"}')
    assert prompt.index("Oslo") < prompt.index("Sunny") < prompt.index("And now?")


def test_a_plan_opens_its_draft_model(model: Path) -> None:
    plain = request_for(model)
    plan = edgeinfer.choose(dataclasses.replace(plain, speculation="draft", draft_model=str(model)))
    assert [file.role for file in plan.files] == ["weights", "draft model"]
    with edgeinfer.load(plan) as drafted, edgeinfer.load(plain) as alone:
        assert drafted.plan.speculation.drafters == ("draft",)
        assert say(drafted, "rain").tokens == say(alone, "rain").tokens


@pytest.mark.parametrize("backend", ["reference", "gguf"])
def test_two_chats_over_one_model_answer_as_each_does_alone(model: Path, backend: str) -> None:
    """Interleaved token by token, past the window of each."""
    request = dataclasses.replace(request_for(model), backend=backend, context=320, speculation="lookup")
    questions = (["the rain " * 30, "and then?"], ["a story " * 40, "and then?"])
    options = edgeinfer.AnswerOptions(sampling=Sampling(temperature=0.8, seed=5), max_tokens=220)
    alone = []
    for asked in questions:
        with edgeinfer.load(request) as loaded:
            chat = loaded.chat(**options)
            alone.append([chat.ask(question).tokens for question in asked])
            assert chat.answer is not None and chat.answer.stats.evicted > 0
    with edgeinfer.load(dataclasses.replace(request, conversations=2)) as loaded:
        chats = [loaded.chat(**options) for _ in questions]
        with pytest.raises(UsageError, match="2 of 2 planned conversations"):
            loaded.chat()
        together: list[list[tuple[int, ...]]] = [[], []]
        for turn in range(2):
            streams = [chat.stream(asked[turn]) for chat, asked in zip(chats, questions, strict=True)]
            for _ in zip(*streams, strict=False):
                pass
            for told, stream in zip(together, streams, strict=True):
                told.append(stream.finish().tokens)
    assert together == alone


def test_load_opens_exactly_what_choose_chose(model: Path) -> None:
    plan = edgeinfer.choose(request_for(model))
    with edgeinfer.load(plan) as loaded:
        assert loaded.plan is plan
    with edgeinfer.load(request_for(model)) as loaded:
        same_machine = dataclasses.replace(loaded.plan, device=plan.device, budget_bytes=plan.budget_bytes)
        assert dataclasses.replace(same_machine, reasons=plan.reasons) == plan


def test_the_second_turn_runs_only_new_tokens(loaded: edgeinfer.LoadedModel) -> None:
    first = say(loaded, "the rain")
    assert first.stats.reused == 0
    talk = [Message("user", "the rain"), Message("assistant", first.text), Message("user", "again")]
    stats = say(loaded, talk).stats
    # The prompt, and every token of the answer but the last, which was not run.
    assert stats.reused >= first.stats.prompt + 11
    assert stats.reused + stats.prefilled == stats.prompt
    assert stats.reprefilled == 0


def test_a_second_turn_equals_that_of_a_fresh_model(loaded: edgeinfer.LoadedModel, model: Path) -> None:
    talk = [Message("user", "the rain"), Message("assistant", say(loaded, "the rain").text), Message("user", "again")]
    second = say(loaded, talk)
    with edgeinfer.load(request_for(model)) as fresh:
        assert say(fresh, "the rain").text == talk[1].content
        assert say(fresh, talk).tokens == second.tokens


def test_a_chat_answers_like_the_same_messages_given_at_once(loaded: edgeinfer.LoadedModel, model: Path) -> None:
    talk = [Message("system", "Be brief."), Message("user", "the rain")]
    with edgeinfer.load(request_for(model)) as alone:
        first = say(alone, talk)
        talk += [Message("assistant", first.text), Message("user", "again")]
        second = say(alone, talk)
    chat = loaded.chat(system="Be brief.", sampling=GREEDY, max_tokens=12)
    assert chat.answer is None
    assert chat.ask("the rain").tokens == first.tokens
    answer = chat.ask("again")
    assert answer.tokens == second.tokens
    assert answer == chat.answer
    assert answer.finish_reason == "length"
    assert answer.stats.reused == second.stats.reused > 0
    assert chat.messages == [*talk, Message("assistant", answer.text)]


def test_a_chat_may_continue_given_messages(loaded: edgeinfer.LoadedModel) -> None:
    chat = loaded.chat(sampling=GREEDY, max_tokens=4)
    chat.ask("the rain")
    chat.messages = [Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b")]
    assert (chat.system, len(chat.turns)) == ("Be brief.", 2)
    chat.ask("c")
    assert [message.content for message in chat.messages[:4]] == ["Be brief.", "a", "b", "c"]
    with pytest.raises(UsageError, match="can only come first"):
        chat.messages = [Message("user", "a"), Message("system", "b")]
    assert len(chat.messages) == 5


def test_options_of_one_answer_replace_those_of_the_chat(loaded: edgeinfer.LoadedModel) -> None:
    chat = loaded.chat(sampling=GREEDY, max_tokens=3)
    assert len(chat.ask("a").tokens) == 3
    assert len(chat.ask("a", max_tokens=5).tokens) == 5
    assert len(chat.ask("a").tokens) == 3
    with pytest.raises(TypeError, match="max_tokenz"):
        chat.ask("a", max_tokenz=5)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="max_tokenz"):
        loaded.chat(max_tokenz=5)  # type: ignore[call-arg]


def test_a_refused_question_leaves_the_chat_unchanged(loaded: edgeinfer.LoadedModel) -> None:
    chat = loaded.chat(sampling=GREEDY, max_tokens=3)
    chat.ask("a")
    before = chat.messages
    with pytest.raises(UsageError, match="UTF-8"):
        chat.ask("a\ud800b")
    assert chat.messages == before
    chat.stream("never read")
    assert chat.messages == before


@pytest.mark.parametrize("end", ["close", "ask", "drop"])
def test_the_part_of_an_answer_that_was_read_is_kept(loaded: edgeinfer.LoadedModel, end: str) -> None:
    chat = loaded.chat(sampling=GREEDY, max_tokens=12)
    stream = chat.stream("the rain")
    read = next(stream)
    if end == "close":
        stream.close()
    elif end == "ask":
        chat.ask("again")
        assert list(stream) == []
        assert stream.answer.finish_reason == "canceled"
    else:
        del stream
    assert chat.messages[:2] == [Message("user", "the rain"), Message("assistant", read)]
    assert len(chat.messages) == (4 if end == "ask" else 2)


def test_a_stopped_answer_ends_after_the_current_token(loaded: edgeinfer.LoadedModel) -> None:
    chat = loaded.chat(sampling=GREEDY, max_tokens=100)
    stream = chat.stream("the rain")
    next(stream)
    stream.stop()
    answer = stream.finish()
    assert answer.finish_reason == "canceled"
    assert len(answer.tokens) < 12


def test_a_reader_who_leaves_changes_no_later_answer(loaded: edgeinfer.LoadedModel) -> None:
    whole = say(loaded, "the rain")
    stream = loaded.stream("the rain", sampling=GREEDY, max_tokens=12)
    next(stream)
    stream.close()
    assert stream.answer.finish_reason == "canceled"
    assert say(loaded, "the rain").tokens == whole.tokens


def test_a_seed_gives_the_same_answer(loaded: edgeinfer.LoadedModel) -> None:
    warm = Sampling(temperature=1.0, seed=7)
    first, second = (loaded.stream("rain", sampling=warm, max_tokens=12).finish() for _ in range(2))
    other = loaded.stream("rain", sampling=dataclasses.replace(warm, seed=8), max_tokens=12).finish()
    assert first.tokens == second.tokens != other.tokens


def test_each_answer_of_a_chat_has_another_seed(loaded: edgeinfer.LoadedModel) -> None:
    warm = Sampling(temperature=1.0, seed=7)
    talk = [Message("user", "rain"), Message("assistant", "wind"), Message("user", "rain")]
    first = loaded.stream(talk[:1], sampling=warm, max_tokens=12).finish()
    moved = dataclasses.replace(warm, seed=9)  # two messages before
    second = loaded.stream(talk, sampling=moved, max_tokens=12).finish()
    chat = loaded.chat(sampling=warm, max_tokens=12)
    assert chat.ask("rain").tokens == first.tokens
    chat.messages = talk[:2]
    assert chat.ask("rain").tokens == second.tokens


def test_more_conversations_than_planned_are_refused(loaded: edgeinfer.LoadedModel) -> None:
    chat = loaded.chat(sampling=GREEDY, max_tokens=3)
    for another in (loaded.chat, lambda: loaded.stream("a"), lambda: loaded.generate("a")):
        with pytest.raises(UsageError, match="1 of 1 planned conversations") as caught:
            another()
        assert "Request(conversations=2)" in caught.value.hint
    assert chat.ask("a").text
    chat.close()
    chat.close()
    with pytest.raises(UsageError, match="this conversation is closed"):
        chat.ask("b")
    assert loaded.chat(sampling=GREEDY, max_tokens=3).ask("a").text  # a chat without references is closed
    assert say(loaded, "a").text


def test_the_models_own_conversation_makes_room_for_a_chat(loaded: edgeinfer.LoadedModel) -> None:
    own = say(loaded, "the rain")
    assert loaded.chat(sampling=GREEDY, max_tokens=12).ask("the rain").tokens == own.tokens


def test_text_or_token_ids_are_continued_without_a_template(loaded: edgeinfer.LoadedModel) -> None:
    tokenizer = loaded.tokenizer
    ids = tokenizer.encode(tokenizer.bos_text + "the rain", special=True)
    answer = loaded.generate(ids, sampling=GREEDY, max_tokens=12)
    assert answer.stats.prompt == len(ids)
    assert loaded.generate("the rain", sampling=GREEDY, max_tokens=12).tokens == answer.tokens
    assert loaded.generate(tokenizer.bos_text + "the rain", sampling=GREEDY, max_tokens=12).tokens == answer.tokens
    longer = loaded.generate([*ids, *answer.tokens[:5]], sampling=GREEDY, max_tokens=7)
    assert longer.tokens == answer.tokens[5:]
    assert longer.stats.reused > 0


def test_a_control_token_in_a_raw_prompt_is_text(loaded: edgeinfer.LoadedModel) -> None:
    spelled = "the <|im_end|> rain"
    ids = loaded.tokenizer.encode(spelled, special=False)
    assert ids != loaded.tokenizer.encode(spelled, special=True)
    answer = loaded.generate(ids, sampling=GREEDY, max_tokens=12)
    assert loaded.generate(spelled, sampling=GREEDY, max_tokens=12).tokens == answer.tokens
    assert answer.stats.prompt == len(ids)


@pytest.mark.parametrize(("prompt", "says"), [([], "the prompt is empty"), ([1, 999_999], "token 999999 is not in")])
def test_an_impossible_raw_prompt_is_refused(loaded: edgeinfer.LoadedModel, prompt: list[int], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        loaded.generate(prompt)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([], "must end with a user message"),
        ([Message("assistant", "x")], "must end with a user message"),
        ([Message("user", "x"), Message("system", "y"), Message("user", "z")], "can only come first"),
        ([{"role": "tool", "content": "x"}], "needs a `role`"),
        ([{"role": "user"}], "needs a `role`"),
        ("a\ud800b", "UTF-8"),
    ],
)
def test_messages_that_are_not_a_conversation_are_refused(
    loaded: edgeinfer.LoadedModel, messages: str | list[Message], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        loaded.stream(messages)


def test_mappings_are_messages(loaded: edgeinfer.LoadedModel) -> None:
    said = loaded.stream([{"role": "user", "content": "the rain"}], sampling=GREEDY, max_tokens=12).finish()
    assert said.tokens == say(loaded, "the rain").tokens


def test_closing_twice_and_asking_after(model: Path) -> None:
    loaded = edgeinfer.load(request_for(model))
    chat = loaded.chat()
    loaded.close()
    loaded.close()
    for use in (lambda: loaded.stream("x"), lambda: loaded.generate("x"), loaded.chat):
        with pytest.raises(UsageError, match="this model is closed"):
            use()
    with pytest.raises(UsageError, match="this conversation is closed"):
        chat.ask("x")


@pytest.mark.parametrize("read", [0, 2])
def test_an_answer_cannot_be_read_after_its_model_was_closed(model: Path, read: int) -> None:
    """The model's memory has been freed by then."""
    loaded = edgeinfer.load(request_for(model))
    stream = loaded.stream("the rain", sampling=GREEDY, max_tokens=40)
    for _ in range(read):
        next(stream)
    loaded.close()
    with pytest.raises(UsageError, match="closed"):
        list(stream)


def test_a_missing_template_is_noted(tmp_path: Path) -> None:
    import gguf

    model = write_tiny(tmp_path / "bare.gguf", Tiny())
    raw = model.read_bytes()
    key = gguf.Keys.Tokenizer.CHAT_TEMPLATE.encode()
    model.write_bytes(raw.replace(key, key[:-1] + b"X"))  # another key of the same length
    with edgeinfer.load(request_for(model)) as loaded:
        assert loaded.notes == (NO_TEMPLATE,)
        assert say(loaded, "the rain").text


def test_another_template_may_be_given(model: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_text("{{ messages[0].content }}!")
    with edgeinfer.load(request_for(model), template=str(mine)) as loaded:
        assert say(loaded, "rain").stats.prompt < 6
    with edgeinfer.load(request_for(model), template="chatml") as loaded:
        assert loaded.notes == ()


@pytest.mark.parametrize("content", [b"\xff", b"{% for %}"])
def test_a_bad_template_loads_nothing(model: Path, tmp_path: Path, content: bytes) -> None:
    mine = tmp_path / "mine.jinja"
    mine.write_bytes(content)
    with pytest.raises(UsageError, match=r"mine\.jinja"):
        edgeinfer.load(request_for(model), template=str(mine))


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + b"\0" * 100)
    with pytest.raises(ArtifactError):
        edgeinfer.load(request_for(bad))


def test_offline_a_missing_file_raises_and_no_download_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    plan = edgeinfer.choose(edgeinfer.Request(model="smollm2-135m", backend="gguf", tier="Q8_0", force=True))

    def never(_: edgeinfer.Plan) -> None:
        raise AssertionError("asked")

    with pytest.raises(DownloadError, match="is not on this machine") as caught:
        bring(plan, Downloads(offline=True, ask=never))
    assert "edgeinfer pull smollm2-135m" in caught.value.hint
