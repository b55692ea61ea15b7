"""How families of models write tool calls, recognized by the marks in their templates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["GENERIC", "ToolFormat", "format_of"]


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """`opening`, a JSON object (or a list of them), `closing`. An empty opening: the answer itself is the object.

    `arguments` is the name under which an object holds them. `native` says that the template writes tools by itself.
    """

    opening: str
    closing: str = ""
    arguments: str = "arguments"
    is_list: bool = False
    native: bool = True


HERMES: Final = ToolFormat("<tool_call>", "</tool_call>")  # Qwen 2.5 and 3, Hermes, SmolLM3
GENERIC: Final = ToolFormat("<tool_call>", "</tool_call>", native=False)  # for templates that write no tools
_MARKS: Final[tuple[tuple[str, ToolFormat], ...]] = (
    ("<tool_call>", HERMES),
    ("[TOOL_CALLS]", ToolFormat("[TOOL_CALLS]", is_list=True)),  # Mistral
    ("<|tool_call|>", ToolFormat("<|tool_call|>", "<|/tool_call|>", is_list=True)),  # Phi 4
    ('"parameters": dictionary', ToolFormat("", arguments="parameters")),  # Llama 3
)


def format_of(source: str) -> ToolFormat:
    """The format that the template `source` asks its model for."""
    if "tools" not in source:
        return GENERIC
    return next((known for mark, known in _MARKS if mark in source), GENERIC)
