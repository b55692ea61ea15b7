"""Tools, the choice between them, and the form of an answer, as OpenAI writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from edgeinfer.serve.generation import ToolChoice
from edgeinfer.serve.grammar import ANY_OBJECT
from edgeinfer.serve.http.reading import Body, ParameterError
from edgeinfer.types import Tool

__all__ = ["Chosen", "FunctionChoice", "FunctionTool", "ResponseFormat", "choose_tools", "schema_of"]

MAX_TOOLS = 128
Name = Annotated[str, Field(min_length=1, max_length=128)]


class Function(Body):
    name: Name
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None  # calls are always held to the schema


class FunctionTool(Body):
    type: Literal["function"]
    function: Function

    @property
    def tool(self) -> Tool:
        one = self.function
        return Tool(one.name, one.description or "", json.dumps(one.parameters or {"type": "object", "properties": {}}))


class NamedFunction(Body):
    name: str


class FunctionChoice(Body):
    type: Literal["function"]
    function: NamedFunction


class NamedSchema(Body):
    name: str
    description: str | None = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None


@dataclass(frozen=True, slots=True)
class Chosen:
    tools: tuple[Tool, ...]
    choice: ToolChoice


def choose_tools(tools: Sequence[Tool], choice: str | None, named: str | None) -> Chosen:
    """`named` is the one tool that must be called. Raises ParameterError for a choice without tools."""
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        raise ParameterError("two tools have the same name", parameter="tools")
    if named is not None:
        if named not in names:
            raise ParameterError(f"`tool_choice` names `{named[:60]}`, which is no tool here", parameter="tool_choice")
        return Chosen(tuple(tool for tool in tools if tool.name == named), "required")
    if choice == "required" and not tools:
        raise ParameterError("`tool_choice` needs `tools`", parameter="tool_choice")
    return Chosen(tuple(tools), "required" if choice == "required" else "none" if choice == "none" else "auto")


def schema_of(form: ResponseFormat | None) -> tuple[Mapping[str, Any] | None, str]:
    """The schema that the answer is held to, and the name of the parameter that holds it."""
    if form is None or form.type == "text":
        return None, ""
    if form.type == "json_object":
        return ANY_OBJECT, "response_format"
    if form.json_schema is None:
        raise ParameterError("`response_format.json_schema` is missing", parameter="response_format")
    return form.json_schema.schema_, "response_format"
