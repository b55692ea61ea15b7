"""The calls of tools in a conversation, one line each: what was called, and what came back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from edgeinfer.text import one_line
from edgeinfer.types import Message

MAX_CHARS: Final = 200  # of the arguments, and of the result


def tool_lines(messages: Sequence[Message]) -> Iterator[str]:
    results = {message.call_id: message.content for message in messages if message.role == "tool"}
    for message in messages:
        for call in message.tool_calls:
            result = results.get(call.id)
            came = "no result" if result is None else one_line(result)[:MAX_CHARS]
            yield f"{one_line(call.name)[:MAX_CHARS]} {one_line(call.arguments)[:MAX_CHARS]}: {came}"
