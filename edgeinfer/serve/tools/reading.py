"""Calls of tools in the text of an answer, while it streams."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from typing import Any

from edgeinfer.chat.stop import tail_that_may_become
from edgeinfer.chat.tool_formats import ToolFormat
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import ToolCall

__all__ = ["ToolReader"]

MAX_CALL_CHARS = 256 * 1024


class JsonEnd:
    """Finds the end of one JSON object or array that comes in pieces. `ended`: it has come."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.ended = False

    def feed(self, character: str) -> None:
        if self._in_string:
            self._in_string = self._escaped or character != '"'
            self._escaped = character == "\\" and not self._escaped
        elif character == '"':
            self._in_string = True
        else:
            self._depth += (character in "{[") - (character in "}]")
            self.ended = character in "}]" and self._depth <= 0


class ToolReader:
    """Feed text, get text and calls. What looks like a call but is not stays text, so nothing is lost.

    `inside`: the prompt has written the opening already.
    """

    def __init__(self, written: ToolFormat, names: Set[str], *, inside: bool = False) -> None:
        self._written = written
        self._names = names
        self._held = ""
        self._call = ""
        self._end = JsonEnd()
        self._inside = inside
        self._at_start = True
        self._closing = ""  # what may still follow a call
        self._after_call = False

    def silent_marks(self, tokenizer: Tokenizer) -> dict[int, bytes]:
        """The control tokens among the marks, whose pieces are empty, with the text to read in their place."""
        marks = [mark for mark in (self._written.opening, self._written.closing) if mark in tokenizer.control_texts]
        return {tokenizer.encode(mark, special=True)[0]: mark.encode() for mark in marks}

    def feed(self, text: str) -> Iterator[str | ToolCall]:
        text, self._held = self._held + text, ""
        while text:
            if self._inside:
                text = yield from self._read_call(text)
            elif self._after_call:
                text = self._skip_closing(text)
            else:
                text = yield from self._read_text(text)

    def finish(self) -> Iterator[str | ToolCall]:
        held, self._held = self._held, ""
        if self._inside:
            yield self._written.opening + self._call + held
        elif held and not self._after_call:  # else it is half a closing mark
            yield held

    def _read_text(self, text: str) -> Generator[str | ToolCall, None, str]:
        opening = self._written.opening
        if not opening:
            return (yield from self._read_bare(text))
        at = text.find(opening)
        if at >= 0:
            if at:
                yield text[:at]
            self._begin_call()
            return text[at + len(opening) :]
        n_held = tail_that_may_become(text, (opening,))
        if text[: len(text) - n_held]:
            yield text[: len(text) - n_held]
        self._held = text[len(text) - n_held :]
        return ""

    def _read_bare(self, text: str) -> Generator[str | ToolCall, None, str]:
        """An answer that is an object, with nothing before it, is a call."""
        words = text.lstrip()
        if self._at_start and not words:
            self._held = text
            return ""
        if self._at_start and words.startswith("{"):
            self._at_start = False
            self._begin_call()
            return words
        self._at_start = False
        yield text
        return ""

    def _begin_call(self) -> None:
        self._inside, self._call, self._end = True, "", JsonEnd()

    def _read_call(self, text: str) -> Generator[str | ToolCall, None, str]:
        for at, character in enumerate(text):
            self._end.feed(character)
            if self._end.ended:
                self._call += text[: at + 1]
                calls = calls_in(self._call, self._written, self._names)
                self._inside = False
                if calls is None:
                    yield self._written.opening + self._call
                else:
                    self._after_call, self._closing = True, self._written.closing
                    yield from calls
                return text[at + 1 :]
        self._call += text
        if len(self._call) > MAX_CALL_CHARS:
            self._inside = False
            yield self._written.opening + self._call
        return ""

    def _skip_closing(self, text: str) -> str:
        """Space, and the closing mark, once."""
        words = text.lstrip()
        if self._closing and words.startswith(self._closing):
            words, self._closing = words.removeprefix(self._closing).lstrip(), ""
        if not words:
            return ""
        if self._closing and self._closing.startswith(words):
            self._held = words
            return ""
        self._after_call = False
        return words


def calls_in(text: str, written: ToolFormat, names: Set[str]) -> list[ToolCall] | None:
    """The calls that a JSON text holds; None where it holds anything else."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    objects: Sequence[Any] = value if isinstance(value, list) else [value]
    calls = [call_of(one, written, names) for one in objects]
    whole = [call for call in calls if call is not None]
    return whole if whole and len(whole) == len(calls) else None


def call_of(value: object, written: ToolFormat, names: Set[str]) -> ToolCall | None:
    if not isinstance(value, Mapping):
        return None
    name, arguments = value.get("name"), value.get(written.arguments)
    if not isinstance(name, str) or name not in names or not isinstance(arguments, Mapping):
        return None
    return ToolCall(name, json.dumps(arguments, ensure_ascii=False, separators=(",", ":")))
