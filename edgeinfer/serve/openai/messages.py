"""The messages of a chat, as OpenAI writes them, and as a conversation."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from edgeinfer.serve.http.reading import Body, ParameterError
from edgeinfer.types import Message, ToolCall

__all__ = ["ChatMessage", "as_conversation"]


class TextPart(Body):
    type: Literal["text"]
    text: str


class CalledFunction(Body):
    name: str
    arguments: str


class Call(Body):
    id: str
    type: Literal["function"]
    function: CalledFunction
    index: int | None = None


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    # What clients send back of an answer.
    reasoning_content: str | None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


def as_conversation(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The system messages at the front as one, then the others. Raises ParameterError for what is no conversation."""
    for at, message in enumerate(messages):
        if message.content is None and message.role in ("system", "developer", "user"):
            raise ParameterError(f"`messages[{at}].content` is missing", parameter=f"messages[{at}].content")
    n_system = next((at for at, one in enumerate(messages) if one.role not in ("system", "developer")), len(messages))
    system = "\n\n".join(message.text for message in messages[:n_system])
    turns = [turn(message, f"messages[{n_system + at}]") for at, message in enumerate(messages[n_system:])]
    return checked_conversation((*([Message("system", system)] if n_system else []), *turns))


def turn(message: ChatMessage, place: str) -> Message:
    if message.role in ("system", "developer"):
        raise ParameterError("a system message can only come first", parameter=place)
    if message.role == "assistant":
        calls = tuple(tool_call(call, f"{place}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls or ()))
        return Message("assistant", message.text, calls)
    if message.tool_calls:
        raise ParameterError("only the assistant calls tools", parameter=f"{place}.tool_calls")
    if message.role == "tool":
        return Message("tool", message.text, call_id=message.tool_call_id or "", name=message.name or "")
    return Message("user", message.text)


def tool_call(call: Call, place: str) -> ToolCall:
    return ToolCall(call.function.name, json_object(call.function.arguments or "{}", f"{place}.arguments"), call.id)


def json_object(text: str, parameter: str) -> str:
    """`text`, held to be a JSON object."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ParameterError(f"`{parameter}` must be the text of a JSON object", parameter=parameter)
    return text


def checked_conversation(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The messages, with the name of its tool on each result. Raises ParameterError where nobody is to be answered."""
    if not messages or messages[-1].role not in ("user", "tool"):
        raise ParameterError("a conversation must end with a message of the user, or a tool's", parameter="messages")
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    for message in messages:
        if message.role == "tool" and message.call_id not in names:
            raise ParameterError(
                f"a tool's result names the call `{message.call_id[:60]}`, which nobody made", parameter="messages"
            )
    return tuple(
        Message("tool", one.content, call_id=one.call_id, name=names[one.call_id]) if one.role == "tool" else one
        for one in messages
    )
