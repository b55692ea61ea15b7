"""The body of `POST /v1/responses`. Nothing is stored here: the whole conversation comes with each request."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from edgeinfer.serve.generation import Generation
from edgeinfer.serve.grammar import ANY_OBJECT
from edgeinfer.serve.http.reading import Body, ParameterError
from edgeinfer.serve.openai.messages import checked_conversation, json_object
from edgeinfer.serve.openai.sampling import SamplingBody, most_tokens
from edgeinfer.serve.openai.tools import choose_tools
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import Message, Tool, ToolCall

__all__ = ["ResponsesBody"]


class InputText(Body):
    type: Literal["input_text", "output_text", "text"]
    text: str
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Annotated[list[Any], Field(max_length=0)] | None = None


class MessageItem(Body):
    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[InputText]
    id: str | None = None
    status: str | None = None
    phase: Literal["commentary", "final_answer"] | None = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class CallItem(Body):
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class OutputItem(Body):
    type: Literal["function_call_output"]
    call_id: str
    output: str | list[InputText]
    id: str | None = None
    status: str | None = None


class ReasoningItem(Body):
    """What clients send back of an answer: templates leave earlier reasoning out."""

    type: Literal["reasoning"]
    id: str | None = None
    summary: list[dict[str, Any]] | None = None
    content: list[dict[str, Any]] | None = None
    encrypted_content: str | None = None
    status: str | None = None


def kind_of(item: object) -> str:
    """A message may leave its type out."""
    return str(item.get("type", "message")) if isinstance(item, dict) else "message"


Item: TypeAlias = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[CallItem, Tag("function_call")]
    | Annotated[OutputItem, Tag("function_call_output")]
    | Annotated[ReasoningItem, Tag("reasoning")],
    Discriminator(kind_of),
]


class ResponseTool(Body):
    type: Literal["function"]
    name: Annotated[str, Field(min_length=1, max_length=128)]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None

    @property
    def tool(self) -> Tool:
        parameters = self.parameters or {"type": "object", "properties": {}}
        return Tool(self.name, self.description or "", json.dumps(parameters))


class NamedTool(Body):
    type: Literal["function"]
    name: str


class Form(Body):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: Annotated[dict[str, Any] | None, Field(alias="schema")] = None
    strict: bool | None = None


class TextBody(Body):
    format: Form | None = None
    verbosity: Literal["medium"] | None = None


class Reasoning(Body):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


class ResponsesBody(SamplingBody):
    input: str | list[Item]
    instructions: str | None = None
    max_output_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    tools: Annotated[list[ResponseTool], Field(max_length=128)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    text: TextBody | None = None
    reasoning: Reasoning | None = None
    truncation: Literal["disabled"] | None = None
    background: Literal[False] | None = None
    include: list[Literal["reasoning.encrypted_content"]] | None = None  # harmless: there is none

    def generation(self, served: ServedModel) -> Generation:
        choice = self.tool_choice
        named = choice.name if isinstance(choice, NamedTool) else None
        plain = choice if isinstance(choice, str) else None
        chosen = choose_tools([one.tool for one in self.tools or ()], plain, named)
        schema = self._schema
        if schema is not None and chosen.tools and chosen.choice != "none":
            raise ParameterError("an answer of a given form cannot call tools", parameter="text.format")
        return Generation(
            sampling=self.sampling(served.usual, served.tokenizer.n_vocab),
            messages=as_conversation(self.instructions, self.input),
            max_tokens=most_tokens(self.max_output_tokens),
            stop=self.stops,
            thinking=self.reasoning is None or self.reasoning.effort != "none",
            tools=chosen.tools,
            tool_choice=chosen.choice,
            one_call=self.parallel_tool_calls is False,
            schema=schema,
            schema_parameter="text.format",
        )

    @property
    def _schema(self) -> Mapping[str, Any] | None:
        form = self.text.format if self.text else None
        if form is None or form.type == "text":
            return None
        if form.type == "json_object":
            return ANY_OBJECT
        if form.schema_ is None:
            raise ParameterError("`text.format.schema` is missing", parameter="text.format")
        return form.schema_


def as_conversation(instructions: str | None, items: str | Sequence[Item]) -> tuple[Message, ...]:
    if isinstance(items, str):
        items = [MessageItem(role="user", content=items)]
    system = [instructions] if instructions else []
    messages: list[Message] = []
    for at, item in enumerate(items):
        if isinstance(item, ReasoningItem):
            continue
        if isinstance(item, MessageItem) and item.role in ("system", "developer"):
            if messages:
                raise ParameterError("a system message can only come first", parameter=f"input[{at}]")
            system.append(item.text)
        else:
            messages.append(message_of(item, f"input[{at}]"))
    front = [Message("system", "\n\n".join(system))] if system else []
    return checked_conversation((*front, *joined(messages)))


def message_of(item: MessageItem | CallItem | OutputItem, place: str) -> Message:
    if isinstance(item, CallItem):
        call = ToolCall(item.name, json_object(item.arguments or "{}", f"{place}.arguments"), item.call_id)
        return Message("assistant", "", (call,))
    if isinstance(item, OutputItem):
        said = item.output if isinstance(item.output, str) else "".join(part.text for part in item.output)
        return Message("tool", said, call_id=item.call_id)
    return Message("assistant" if item.role == "assistant" else "user", item.text)


def joined(messages: Sequence[Message]) -> list[Message]:
    """One message for what the assistant says and calls in a row: templates expect the two to take turns."""
    turns: list[Message] = []
    for message in messages:
        last = turns[-1] if turns else None
        if message.role == "assistant" and last is not None and last.role == "assistant":
            said = "\n\n".join(text for text in (last.content, message.content) if text)
            turns[-1] = Message("assistant", said, (*last.tool_calls, *message.tool_calls))
        else:
            turns.append(message)
    return turns
