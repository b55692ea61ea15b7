"""A saved conversation is written completely or not at all, and checked when it is loaded."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.chat.history import MAX_FILE_BYTES, SavedChat, load, save
from edgeinfer.errors import UsageError
from edgeinfer.types import Message, ToolCall

TALK = [Message("system", "Be brief."), Message("user", "Hé 😀\n"), Message("assistant", "")]
SAVED = SavedChat(TALK, "demo", {"temp": "0.7"})


def good(**changes: object) -> dict[str, object]:
    rows = [{"role": "user", "content": "Hi"}]
    return {"edgeinfer_conversation": 1, "model": "demo", "messages": rows} | changes


def test_a_saved_conversation_is_loaded_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    save(file, SAVED)
    assert load(file) == SAVED
    assert json.loads(file.read_text())["model"] == "demo"
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]


def test_calls_of_tools_are_saved_and_loaded(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    calls = (ToolCall("get_weather", '{"city": "Paris"}', "1"), ToolCall("now", "{}"))
    asked = Message("assistant", "", tool_calls=calls, reasoning="I must look.")
    told = SavedChat(
        [Message("user", "Weather?"), asked, Message("tool", "Sunny", call_id="1", name="get_weather")], "m"
    )
    save(file, told)
    assert load(file) == told
    assert json.loads(file.read_text())["messages"][0] == {"role": "user", "content": "Weather?"}


CALL = {"name": "now", "arguments": "{}", "id": ""}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"role": "user", "content": "x", "tool_calls": []}, "of role `user` cannot have `tool_calls`"),
        ({"role": "assistant", "content": "x", "name": "y"}, "of role `assistant` cannot have `name`"),
        ({"role": "assistant", "content": "x", "tool_calls": {}}, "a list of calls that cannot be used"),
        ({"role": "assistant", "content": "x", "reasoning": 5}, "a text .* that cannot be used"),
        ({"role": "tool", "content": "x", "call_id": "\ud800"}, "a text .* that cannot be used"),
        ({"role": "assistant", "content": "x", "tool_calls": [CALL | {"more": "x"}]}, "a call without `name`"),
        ({"role": "assistant", "content": "x", "tool_calls": [CALL | {"id": 5}]}, "a call without `name`"),
        ({"role": "assistant", "content": "x", "tool_calls": [CALL | {"name": ""}]}, "not the text of a JSON object"),
        ({"role": "assistant", "content": "x", "tool_calls": [CALL | {"arguments": "[]"}]}, "of a JSON object"),
        ({"role": "assistant", "content": "x", "tool_calls": [CALL | {"arguments": "[" * 9999}]}, "of a JSON object"),
    ],
)
def test_calls_that_cannot_be_used_are_refused(tmp_path: Path, row: dict[str, object], says: str) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(good(messages=[{"role": "user", "content": "Hi"}, row])))
    with pytest.raises(UsageError, match=f"message 2 .*{says}"):
        load(file)


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    save(file, SAVED)
    with pytest.raises(UsageError, match="cannot write"):
        save(file, SavedChat([Message("user", "\ud800")], "demo"))  # which UTF-8 cannot carry
    assert load(file) == SAVED
    assert [path.name for path in tmp_path.iterdir()] == ["talk.json"]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot write .*No such file"):
        save(tmp_path / "none" / "talk.json", SAVED)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a conversation"),
        (b"\xff", "is not UTF-8"),
        (b"\xff\xfe", "Expecting value"),
        (b"[1, 2", "Expecting"),
        (b"[" * 100_000, "recursion"),
        (b'{"a": 1, "a": 2}', "a key appears twice"),
        (json.dumps([1]).encode(), "`edgeinfer_conversation` must be 1"),
        (json.dumps(good(edgeinfer_conversation=2)).encode(), "must be 1"),
        (json.dumps(good(extra=1)).encode(), "the keys must be"),
        (json.dumps(good(model=5)).encode(), "`model` must be a name"),
        (json.dumps(good(settings=[])).encode(), "`settings` must be names with texts"),
        (json.dumps(good(settings={"temp": 5})).encode(), "`settings` must be names with texts"),
        (json.dumps(good(messages={})).encode(), "must be a list"),
        (json.dumps(good(messages=[1])).encode(), "message 1 must have"),
        (json.dumps(good(messages=[{"role": "user"}])).encode(), "message 1 must have"),
        (json.dumps(good(messages=[{"role": "root", "content": "x"}])).encode(), "cannot be used"),
        (json.dumps(good(messages=[{"role": ["user"], "content": "x"}])).encode(), "cannot be used"),
        (json.dumps(good(messages=[{"role": "user", "content": 5}])).encode(), "cannot be used"),
        (json.dumps(good(messages=[{"role": "user", "content": "\ud800"}])).encode(), "cannot be used"),
        (
            json.dumps(good(messages=[{"role": role, "content": "x"} for role in ("user", "system")])).encode(),
            "can only come first",
        ),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "talk.json"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=says) as caught:
        load(file)
    assert "\n" not in str(caught.value)


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    with file.open("wb") as handle:
        handle.truncate(MAX_FILE_BYTES + 1)
    with pytest.raises(UsageError, match="larger than"):
        load(file)


def test_a_folder_is_not_a_conversation(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load(tmp_path)


def test_a_file_without_settings_is_loaded(tmp_path: Path) -> None:
    file = tmp_path / "talk.json"
    file.write_text(json.dumps(good()))
    assert load(file) == SavedChat([Message("user", "Hi")], "demo", {})


@given(st.binary(max_size=200))
def test_random_bytes_are_always_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "fuzz.json"
    file.write_bytes(content)
    with pytest.raises(UsageError):
        load(file)
