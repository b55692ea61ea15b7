"""A conversation and its file. A file that is loaded may come from anywhere, so it is checked whole before use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from edgeinfer.errors import UsageError
from edgeinfer.named_files import Waiting, read_text, silently, write_text
from edgeinfer.text import shown
from edgeinfer.types import Message, Role, ToolCall

FORMAT = 1
MAX_FILE_BYTES = 16 * 1024 * 1024  # a conversation of some four million tokens
MAX_MESSAGES = 100_000
ROLES = frozenset(get_args(Role))
MAY_HAVE = {
    "assistant": ("reasoning", "tool_calls"),
    "tool": ("name", "call_id"),
}  # in addition; what is empty is left out
CALL_TEXTS = ("name", "arguments", "id")


@dataclass(frozen=True, slots=True)
class SavedChat:
    """A conversation, the model that it was with, and the settings by name, as they are shown.

    A question that has no answer yet may come last.
    """

    messages: Sequence[Message]
    model: str
    settings: Mapping[str, str] = field(default_factory=dict)


def save(path: Path, chat: SavedChat) -> None:
    """Write the conversation, whole or not at all. Raises UsageError when the place cannot be written."""
    content = json.dumps(
        {
            "edgeinfer_conversation": FORMAT,
            "model": chat.model,
            "settings": dict(chat.settings),
            "messages": [row_of(message) for message in chat.messages],
        },
        ensure_ascii=False,
        indent=1,
    )
    write_text(path, content + "\n", mode=0o600)


def load(path: Path, waiting: Waiting = silently) -> SavedChat:
    """Read a conversation. Raises UsageError for whatever is not one; nothing is repaired or dropped."""
    text = read_text(path, title=f"`{path}`", most_bytes=MAX_FILE_BYTES, hint="/save writes one", waiting=waiting)
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        what = str(error).splitlines()[0]
        raise UsageError(f"`{path}` is not a conversation: {what}", hint="/save writes one") from error
    return check(value, path)


def is_of_another_kind(path: Path) -> bool:
    """Whether the file exists, is not empty, and is not a conversation."""
    try:
        if not path.is_file() or not path.stat().st_size:
            return False
        load(path)
    except (OSError, UsageError) as error:
        return isinstance(error, UsageError)
    return False


def check(value: object, path: Path) -> SavedChat:
    def wrong(what: str) -> UsageError:
        return UsageError(f"`{path}` is not a conversation: {what}", hint="/save writes one")

    if not isinstance(value, dict) or value.get("edgeinfer_conversation") != FORMAT:
        raise wrong(f"`edgeinfer_conversation` must be {FORMAT}")
    if set(value) - {"settings"} != {"edgeinfer_conversation", "model", "messages"}:
        raise wrong("the keys must be `edgeinfer_conversation`, `model`, `messages` and, if wanted, `settings`")
    model, settings = value["model"], value.get("settings", {})
    if not is_text(model):
        raise wrong("`model` must be a name")
    if not isinstance(settings, dict) or not all(map(is_text, (*settings, *settings.values()))):
        raise wrong("`settings` must be names with texts")
    rows = value["messages"]
    if not isinstance(rows, list) or len(rows) > MAX_MESSAGES:
        raise wrong(f"`messages` must be a list of at most {MAX_MESSAGES}")
    messages: list[Message] = []
    for number, row in enumerate(rows, start=1):
        try:
            messages.append(message_of(row))
        except ValueError as error:
            raise wrong(f"message {number} {error}") from error
        if messages[-1].role == "system" and number > 1:
            raise wrong(f"message {number} is a system message, which can only come first")
    return SavedChat(messages, model, settings)


def row_of(message: Message) -> dict[str, object]:
    row: dict[str, object] = {"role": message.role, "content": message.content}
    more = {key: value for key in MAY_HAVE.get(message.role, ()) if (value := getattr(message, key))}
    if message.tool_calls:
        more["tool_calls"] = [{key: getattr(call, key) for key in CALL_TEXTS} for call in message.tool_calls]
    return row | more


def message_of(row: object) -> Message:
    """Raises ValueError, which says what is wrong with the message."""
    if not isinstance(row, dict) or not {"role", "content"} <= set(row):
        raise ValueError("must have `role` and `content`")
    role, content = row["role"], row["content"]
    if not isinstance(role, str) or role not in ROLES or not is_text(content):
        raise ValueError("has a role or content that cannot be used")
    more = {key: value for key, value in row.items() if key not in ("role", "content")}
    if unknown := more.keys() - MAY_HAVE.get(role, ()):
        raise ValueError(f"of role `{role}` cannot have `{shown(min(unknown))[:40]}`")
    calls = more.pop("tool_calls", [])
    if not isinstance(calls, list) or not all(map(is_text, more.values())):
        raise ValueError("has a text or a list of calls that cannot be used")
    return Message(role, content, tool_calls=tuple(map(call_of, calls)), **more)  # type: ignore[arg-type]  # checked


def call_of(row: object) -> ToolCall:
    if not isinstance(row, dict) or set(row) != set(CALL_TEXTS) or not all(map(is_text, row.values())):
        raise ValueError("has a call without `name`, `arguments` and `id`")
    try:
        arguments = json.loads(row["arguments"])
    except (ValueError, RecursionError):
        arguments = None
    if not row["name"] or not isinstance(arguments, dict):
        raise ValueError("has a call whose `arguments` are not the text of a JSON object")
    return ToolCall(**row)


def is_text(value: object) -> bool:
    """A string that UTF-8 can encode: JSON may hold lone surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key appears twice")
    return keys
