"""`edgeinfer chat`: no error ends the chat or loses the conversation."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from edgeinfer.chat import history
from edgeinfer.cli.autosave import Autosave
from edgeinfer.cli.repl import Repl
from edgeinfer.cli.settings import Settings
from edgeinfer.errors import ArtifactError, EngineError, UsageError
from edgeinfer.plan import Request, make_plan
from edgeinfer.runner.answer import Answer, AnswerSettings, AnswerStream, Writer
from edgeinfer.runner.chat import Chat
from edgeinfer.types import GREEDY, Message, Prompt, ToolCall
from tests.unit.plan_things import GGUF, artifact, catalog, device, model
from tests.unit.test_runner_answer import STOP, Bytes, Scripted, text


class Typed:
    """Lines that a user types; a callable among them is called."""

    def __init__(self, *lines: str | Callable[[], None], interactive: bool = True) -> None:
        self.lines = list(lines)
        self.interactive = interactive

    def read(self, prompt: str) -> str | None:
        del prompt
        line = self.lines.pop(0) if self.lines else None
        if callable(line):
            line()
            return ""
        return line


class Answering:
    """A conversation with scripted replies: a text, an error, or a text and then an error."""

    notices: tuple[str, ...] = ()

    def __init__(self, *replies: str | Exception | tuple[str, BaseException]) -> None:
        self.replies = list(replies)

    def end_answer(self) -> None:
        pass

    def answer(
        self, messages: Sequence[Message], settings: AnswerSettings, ended: Callable[[Answer], None]
    ) -> AnswerStream:
        del messages
        reply = self.replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        said, error = (reply, None) if isinstance(reply, str) else reply
        decoder = Scripted([*text(said), STOP])
        if error:
            decoder.at(len(said), lambda: (_ for _ in ()).throw(error))
        writer = Writer(decoder, Bytes(), settings=settings)

        def segments() -> Iterator[Any]:
            try:
                yield from writer.segments(Prompt((7,)), GREEDY)
            finally:
                ended(writer.answer)

        return AnswerStream(writer, cast("Any", segments()))


PLAN = make_plan(device(8), catalog(model("tiny", 1, artifact(1, "Q4_K_M"))), [GGUF], Request())


def chatting(*replies: str | Exception | tuple[str, BaseException], folder: Path | None = None) -> Repl:
    chat = Chat(cast("Any", Answering(*replies)), GREEDY, "", AnswerSettings())
    return Repl(PLAN, chat, Settings(GREEDY, max_tokens=100), Autosave(folder))


def contents(file: Path) -> list[str]:
    return [message["content"] for message in json.loads(file.read_text())["messages"]]


def test_notes_about_the_template_are_shown_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Answering, "notices", ("it takes no system prompt",))
    chatting("one.", "two.").run(Typed("first", "second", interactive=True))
    assert capsys.readouterr().err.count("(it takes no system prompt)") == 1


@pytest.mark.parametrize("quote", ['"', "'", ""])
def test_a_file_name_may_be_quoted(tmp_path: Path, quote: str) -> None:
    file = tmp_path / "my talk.json"
    repl = chatting("one.", "two.")
    assert repl.run(Typed("first", f"/save {quote}{file}{quote}", "/clear", f"/load {quote}{file}{quote}")) == 0
    assert [message.content for message in repl.chat.turns] == contents(file) == ["first", "one."]


ERRORS = [
    UsageError("too long"),
    ArtifactError("the template takes too long"),
    EngineError("it gave up"),
    MemoryError(),
    ValueError("a mistake\nof ours"),
    OSError(5, "Input/output error"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("interactive", [True, False])
def test_no_error_of_an_answer_ends_the_chat(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], error: Exception, interactive: bool
) -> None:
    file = tmp_path / "talk.json"
    repl = chatting("one.", error, ("half", error), "four.")
    lines = ["first", "second", f"/save {file}", "third", "fourth"]
    code = repl.run(Typed(*lines, interactive=interactive))
    assert contents(file) == ["first", "one.", "second"]
    assert [message.content for message in repl.chat.turns] == ["first", "one.", "third", "hal", "fourth", "four."]
    assert (code == 0) is interactive
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 2


def test_a_read_error_ends_the_chat_and_keeps_the_conversation(tmp_path: Path) -> None:
    def gone() -> None:
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        chatting("one.", folder=tmp_path).run(Typed("first", gone))
    (file,) = tmp_path.glob("*.json")
    assert contents(file) == ["first", "one."]


def test_a_question_without_an_answer_is_asked_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "talk.json"
    chatting(EngineError("it gave up")).run(Typed("what?", f"/save {file}"))
    repl = chatting("this.")
    repl.run(Typed(f"/load {file}", "/retry", "/retry"))
    said = capsys.readouterr().err
    assert "(the last question has no answer: /retry asks it again)" in said
    assert said.count("error: every question has an answer") == 1
    assert repl.chat.turns == [Message("user", "what?"), Message("assistant", "this.")]


def test_load_says_which_settings_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "talk.json"
    chatting("one.").run(Typed("/set temp 0.5", "/set stop END", "first", f"/save {file}"))
    same = chatting("two.")
    same.run(Typed("/set temp 0.5", "/set stop END", f"/load {file}"))
    said = capsys.readouterr().err
    assert "(loaded 2 messages)" in said
    assert "settings that differ" not in said
    assert "written with" not in said
    saved = history.load(file)
    history.save(file, history.SavedChat(saved.messages, "other\033[2J", saved.settings))
    chatting().run(Typed(f"/load {file}"))
    said = capsys.readouterr().err
    assert "(they were written with other[2J; this is tiny)" in said
    assert "(settings that differ: temp was 0.5, is 0.0; stop was 'END', is none)" in said


def test_load_shows_the_calls_of_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "talk.json"
    calls = (ToolCall("get_weather", '{"city": "Paris"}', "1"), ToolCall("no\033[2Jw", "{}", "2"))
    messages = [Message("user", "Weather?"), Message("assistant", "", tool_calls=calls)]
    messages += [Message("tool", "Sunny\nand warm", call_id="1", name="get_weather"), Message("assistant", "Sunny.")]
    history.save(file, history.SavedChat(messages, "tiny"))
    again = tmp_path / "again.json"
    chatting().run(Typed(f"/load {file}", f"/save {again}"))
    said = capsys.readouterr().err
    assert '(called get_weather {"city": "Paris"}: Sunny and warm)' in said
    assert "(called no[2Jw {}: no result)" in said
    assert history.load(again).messages == messages


def killed() -> None:
    raise SystemExit(143)


@pytest.mark.parametrize("how", [SystemExit(143), KeyboardInterrupt()])
def test_an_interrupted_answer_is_kept_and_offered_at_the_next_start(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: BaseException
) -> None:
    try:
        chatting("one.", ("half an answer", how), folder=tmp_path).run(Typed("first", "second"))
    except SystemExit as error:
        assert error.code == 143  # only one of the two raises
    (file,) = tmp_path.glob("*.json")
    assert contents(file) == ["first", "one.", "second", "half an answe"]
    assert "(the conversation is kept: /restore in the next chat continues it)" in capsys.readouterr().err

    chatting(folder=tmp_path).run(Typed(interactive=False))
    assert "cut off" not in capsys.readouterr().err

    repl = chatting("three.", folder=tmp_path)
    repl.run(Typed("/restore", "third", "/restore"))
    said = capsys.readouterr().err
    assert ": /restore continues it)" in said
    assert "(loaded 4 messages)" in said
    assert "error: no chat was cut off" in said
    assert [message.content for message in repl.chat.turns][4:] == ["third", "three."]
    assert list(tmp_path.iterdir()) == []


def test_a_chat_that_was_closed_leaves_no_file(tmp_path: Path) -> None:
    for leave in ("/bye", "/clear"):
        kept: list[str] = []
        watch = lambda kept=kept: kept.extend(contents(next(tmp_path.glob("*.json"))))  # noqa: E731
        chatting("one.", folder=tmp_path).run(Typed("first", watch, leave))
        assert kept == ["first", "one."]
        assert list(tmp_path.iterdir()) == []


def test_a_running_chat_is_not_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = chatting(folder=tmp_path)
    chatting("one.", folder=tmp_path).run(Typed("first", lambda: other.offer()))
    assert "cut off" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        chatting("one.", folder=tmp_path).run(Typed("first", killed))
    other.offer()
    assert "cut off" in capsys.readouterr().err


def test_an_answer_is_saved_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeinfer.cli.autosave.WHILE_ANSWERING_S", 0.0)
    seen: list[list[str]] = []
    write = Autosave.write

    def watch(self: Autosave, chat: history.SavedChat) -> bool:
        assert write(self, chat)
        seen.append(contents(next(tmp_path.glob("*.json"))))
        return True

    monkeypatch.setattr(Autosave, "write", watch)
    monkeypatch.setattr("edgeinfer.cli.autosave.MAX_WRITING_SHARE", 1e9)
    chatting("ab", folder=tmp_path).run(Typed("first"))
    assert seen == [["first"], ["first", "a"], ["first", "ab"], ["first", "ab"]]


def test_a_folder_that_cannot_be_written_stops_no_chat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nowhere = tmp_path / "file"
    nowhere.write_text("")
    repl = chatting("one.", "two.", folder=nowhere / "below")
    assert repl.run(Typed("first", "second")) == 0
    assert len(repl.chat.turns) == 4
    assert capsys.readouterr().err.count("(this chat is not kept while it runs: ") == 1


@pytest.mark.parametrize("content", ["my notes\n", "[1, 2]"])
def test_save_replaces_no_file_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    file, empty = tmp_path / "notes.txt", tmp_path / "empty"
    file.write_text(content)
    empty.touch()
    lines = ["first", f"/save {file}", f"/save {empty}", "second", f"/save {empty}", f"/save {tmp_path / ('x' * 300)}"]
    assert chatting("one.", "two.").run(Typed(*lines, interactive=False)) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert ["not a saved conversation" in errors[0], "cannot write" in errors[1], len(errors)] == [True, True, 2]
    assert file.read_text() == content
    assert contents(empty) == ["first", "one.", "second", "two."]


def test_a_folder_of_another_user_stops_no_chat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old.json").write_text("{}")

    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("edgeinfer.cli.autosave.FileLock.acquire", forbidden)
    repl = chatting("one.", folder=tmp_path)
    assert repl.run(Typed("first", "/clear")) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]
