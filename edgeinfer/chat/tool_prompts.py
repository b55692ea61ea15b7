"""Tools in a prompt: as the template writes them, or in our own words if it writes none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgeinfer.chat.tool_formats import ToolFormat
from edgeinfer.types import Message, Tool, ToolCall

__all__ = ["template_variables", "with_tools_in_words"]

_INTRODUCTION = """\
You can call functions. To call one, write
<tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>
The functions are:
"""


def template_variables(tools: Sequence[Tool], written: ToolFormat) -> Mapping[str, Any]:
    """What a template reads that writes tools by itself."""
    if not tools or not written.native:
        return {}
    return {"tools": [{"type": "function", "function": described(tool)} for tool in tools]}


def with_tools_in_words(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The conversation for a template that knows no tools: everything about them is text."""
    plain = [in_words(message) for message in messages]
    if not tools:
        return plain
    said = _INTRODUCTION + "\n".join(json.dumps(described(tool), ensure_ascii=False) for tool in tools)
    if plain and plain[0].role == "system":
        return [replace(plain[0], content=f"{plain[0].content}\n\n{said}"), *plain[1:]]
    return [Message("system", said), *plain]


def described(tool: Tool) -> dict[str, object]:
    parameters = json.loads(tool.parameters)
    return {"name": tool.name, "description": tool.description, "parameters": parameters}


def in_words(message: Message) -> Message:
    if message.role == "tool":
        return Message("user", f"<tool_response>{message.content}</tool_response>")
    if message.tool_calls:
        calls = "".join(map(call_in_words, message.tool_calls))
        return Message(message.role, message.content + calls)
    return message


def call_in_words(call: ToolCall) -> str:
    return f'<tool_call>{{"name": {json.dumps(call.name)}, "arguments": {call.arguments}}}</tool_call>'
