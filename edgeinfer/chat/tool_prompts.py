"""Tools in a prompt: as the template writes them, or in our own words if it writes none."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgeinfer.chat.template import Template
from edgeinfer.chat.tool_formats import GENERIC, ToolFormat
from edgeinfer.types import Message, Tool, ToolCall

__all__ = ["confirmed", "template_variables", "with_tools_in_words"]

_INTRODUCTION = """\
You can call functions. To call one, write
<tool_call>{"name": NAME, "arguments": OBJECT}</tool_call>
The functions are:
"""
_NEXT_RESULT = "</tool_response>\n<tool_response>"

PROBED_TOOL = Tool("qtoolx", parameters='{"type": "object", "properties": {"qargx": {"type": "string"}}}')
PROBED = (
    Message("user", "qaskx"),
    Message("assistant", "", tool_calls=(ToolCall(PROBED_TOOL.name, '{"qargx": "qvaluex"}', "qcallx123"),)),
    Message("tool", "qresultx", call_id="qcallx123", name=PROBED_TOOL.name),
)


def confirmed(written: ToolFormat, template: Template) -> ToolFormat:
    """`written`, or GENERIC where the template leaves out tools, calls or results: they would be lost in silence."""
    text = template.probe(PROBED, template_variables([PROBED_TOOL], written)) or ""
    said = text.count(PROBED_TOOL.name) > 1 and all(word in text for word in ("qargx", "qvaluex", "qresultx"))
    return written if said else GENERIC


def template_variables(tools: Sequence[Tool], written: ToolFormat) -> Mapping[str, Any]:
    """What a template reads that writes tools by itself."""
    if not tools or not written.native:
        return {}
    return {"tools": [{"type": "function", "function": described(tool)} for tool in tools]}


def with_tools_in_words(messages: Sequence[Message], tools: Sequence[Tool]) -> list[Message]:
    """The conversation for a template that knows no tools: everything about them is text."""
    plain = [in_words(message) for message in with_joined_results(messages)]
    if not tools:
        return plain
    said = _INTRODUCTION + "\n".join(json.dumps(described(tool), ensure_ascii=False) for tool in tools)
    if plain and plain[0].role == "system":
        return [replace(plain[0], content=f"{plain[0].content}\n\n{said}"), *plain[1:]]
    return [Message("system", said), *plain]


def with_joined_results(messages: Sequence[Message]) -> list[Message]:
    """Results of calls that were made together as one message: many templates want user and assistant in turn."""
    joined: list[Message] = []
    for message in messages:
        if message.role == "tool" and joined and joined[-1].role == "tool":
            joined[-1] = replace(joined[-1], content=f"{joined[-1].content}{_NEXT_RESULT}{message.content}")
        else:
            joined.append(message)
    return joined


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
