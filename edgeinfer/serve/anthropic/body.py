"""The body of `POST /v1/messages`, and the conversation in it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from edgeinfer.serve.generation import Generation, ToolChoice
from edgeinfer.serve.http.reading import Body, ParameterError
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import Message, Tool, ToolCall

__all__ = ["CountBody", "MessagesBody"]


class CacheControl(Body):
    """Harmless: what was run is kept without being asked."""

    type: Literal["ephemeral"]
    ttl: str | None = None


class TextBlock(Body):
    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


class Caller(Body):
    type: Literal["direct"]


class ToolUseBlock(Body):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]
    caller: Caller | None = None
    cache_control: CacheControl | None = None


class ToolResultBlock(Body):
    type: Literal["tool_result"]
    tool_use_id: str
    content: str | list[TextBlock] | None = None
    is_error: bool | None = None
    cache_control: CacheControl | None = None


class ThinkingBlock(Body):
    """Reasoning that clients send back: templates leave earlier reasoning out."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None


class RedactedThinkingBlock(Body):
    """As above, from another server: its content cannot be read."""

    type: Literal["redacted_thinking"]
    data: str


Block: TypeAlias = Annotated[
    TextBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock, Field(discriminator="type")
]


class Turn(Body):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolBody(Body):
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    cache_control: CacheControl | None = None

    @property
    def tool(self) -> Tool:
        return Tool(self.name, self.description or "", json.dumps(self.input_schema))


class Choice(Body):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(Body):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: Annotated[int, Field(ge=1)] | None = None
    display: Literal["summarized", "omitted"] | None = None


class AnswerForm(Body):
    type: Literal["json_schema"]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]


class OutputConfig(Body):
    format: AnswerForm | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None  # harmless: no model here has levels


class Metadata(Body):
    user_id: str | None = None


class CountBody(Body):
    model: str
    messages: Annotated[list[Turn], Field(min_length=1)]
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[ToolBody], Field(max_length=128)] | None = None
    tool_choice: Choice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None

    def generation(self, served: ServedModel) -> Generation:
        tools = tuple(tool.tool for tool in self.tools or ())
        tools, choice = chosen(tools, self.tool_choice)
        form = self.output_config.format if self.output_config else None
        if form and tools and choice != "none":
            raise ParameterError("an answer of a given form cannot call tools", parameter="output_config.format")
        return Generation(
            sampling=served.usual,
            messages=as_conversation(self.system, self.messages),
            thinking=self.thinking is not None and self.thinking.type != "disabled",
            think_budget=self.thinking.budget_tokens if self.thinking else None,
            tools=tools,
            tool_choice=choice,
            one_call=bool(self.tool_choice and self.tool_choice.disable_parallel_tool_use),
            schema=form.schema_ if form else None,
            schema_parameter="output_config.format",
        )


class MessagesBody(CountBody):
    max_tokens: Annotated[int, Field(ge=1, le=10**9)]
    stream: bool | None = None
    stop_sequences: Annotated[list[str], Field(max_length=16)] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    # Harmless: they change nothing on one's own machine.
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None

    def generation(self, served: ServedModel) -> Generation:
        if "" in (self.stop_sequences or ()):
            raise ParameterError("a stop sequence must not be empty", parameter="stop_sequences")
        usual = served.usual
        truncates = self.top_p is not None or self.top_k is not None
        default = 1.0 if truncates and usual.temperature == 0.0 else usual.temperature
        sampling = replace(
            usual,
            temperature=default if self.temperature is None else self.temperature,
            top_p=usual.top_p if self.top_p is None else max(self.top_p, 1e-6),
            top_k=usual.top_k if self.top_k is None else self.top_k,
            seed=secrets.randbits(32),
        )
        return replace(
            super().generation(served),
            sampling=sampling,
            max_tokens=self.max_tokens,
            stop=tuple(self.stop_sequences or ()),
        )


def chosen(tools: tuple[Tool, ...], choice: Choice | None) -> tuple[tuple[Tool, ...], ToolChoice]:
    if len({tool.name for tool in tools}) < len(tools):
        raise ParameterError("two tools have the same name", parameter="tools")
    if choice is None or choice.type == "auto":
        return tools, "auto"
    if choice.type == "none":
        return tools, "none"
    wanted = tuple(tool for tool in tools if choice.type == "any" or tool.name == choice.name)
    if not wanted:
        raise ParameterError("`tool_choice` names no tool of `tools`", parameter="tool_choice")
    return wanted, "required"


def as_conversation(system: str | Sequence[TextBlock] | None, turns: Sequence[Turn]) -> tuple[Message, ...]:
    """Raises ParameterError for anything that is not a conversation."""
    messages = [message for at, turn in enumerate(turns) for message in messages_of(turn, f"messages[{at}]")]
    if not messages or messages[-1].role == "assistant":
        raise ParameterError("a conversation must end with a message of the user", parameter="messages")
    names = {call.id: call.name for message in messages for call in message.tool_calls}
    if lost := next((one for one in messages if one.role == "tool" and one.call_id not in names), None):
        raise ParameterError(f"a result names the call `{lost.call_id[:60]}`, which nobody made", parameter="messages")
    named = [replace(one, name=names[one.call_id]) if one.role == "tool" else one for one in messages]
    said = system if isinstance(system, str) else "\n\n".join(block.text for block in system or ())
    return (*([Message("system", said)] if said else []), *named)


def messages_of(turn: Turn, place: str) -> Iterator[Message]:
    """A turn as messages: results of tools have messages of their own, before what the user says."""
    if isinstance(turn.content, str):
        yield Message(turn.role, turn.content)
        return
    text = "".join(block.text for block in turn.content if isinstance(block, TextBlock))
    calls = [block for block in turn.content if isinstance(block, ToolUseBlock)]
    results = [block for block in turn.content if isinstance(block, ToolResultBlock)]
    if turn.role == "assistant":
        if results:
            raise ParameterError("results of tools come from the user", parameter=place)
        made = tuple(ToolCall(call.name, json.dumps(call.input, ensure_ascii=False), call.id) for call in calls)
        yield Message("assistant", text, made)
        return
    if calls:
        raise ParameterError("only the assistant calls tools", parameter=place)
    for result in results:
        said = result.content if isinstance(result.content, str) else "".join(b.text for b in result.content or ())
        yield Message("tool", said, call_id=result.tool_use_id)
    if text or not results:
        yield Message("user", text)
