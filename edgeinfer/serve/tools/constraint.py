"""Calls of tools that are always JSON of a tool's schema, in an answer that may hold text, too."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edgeinfer.chat.tool_formats import ToolFormat
from edgeinfer.protocols import Tokenizer
from edgeinfer.serve.grammar import JsonConstraint
from edgeinfer.types import Tool

if TYPE_CHECKING:
    from edgeinfer.types import Logits

__all__ = ["CallsInText", "calls_schema"]


def calls_schema(tools: Sequence[Tool], written: ToolFormat) -> dict[str, Any]:
    """What one opening may be followed by: a call of any of the tools, or a list of calls. Arguments are an object."""
    parameters = {
        str(index): within(f"#/$defs/{index}", json.loads(tool.parameters)) for index, tool in enumerate(tools)
    }
    calls = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool.name},
                written.arguments: {"type": "object", "$ref": f"#/$defs/{index}"},
            },
            "required": ["name", written.arguments],
            "additionalProperties": False,
        }
        for index, tool in enumerate(tools)
    ]
    one = calls[0] if len(calls) == 1 else {"anyOf": calls}
    return {"$defs": parameters, **({"type": "array", "items": one, "minItems": 1} if written.is_list else one)}


def within(place: str, schema: dict[str, Any]) -> dict[str, Any]:
    """`schema` as a part of another one, at `place`: its references name parts of itself."""

    def moved(value: Any) -> Any:
        if isinstance(value, list):
            return [moved(one) for one in value]
        if not isinstance(value, dict):
            return value
        return {name: place + one[1:] if is_local(name, one) else moved(one) for name, one in value.items()}

    return {name: value for name, value in moved(schema).items() if name != "$id"}


def is_local(name: str, value: object) -> bool:
    return name == "$ref" and isinstance(value, str) and value.startswith("#")


class CallsInText:
    """See decode.constraint.Constraint. Free until the opening of a call has come; then the call; then free again."""

    def __init__(self, tokenizer: Tokenizer, written: ToolFormat, new_call: Callable[[], JsonConstraint]) -> None:
        """`new_call` gives a constraint at the start of a call."""
        self._tokenizer = tokenizer
        self._opening = written.opening.encode()
        self._marks = frozenset(
            tokenizer.encode(written.opening, special=True) if written.opening in tokenizer.control_texts else ()
        )
        self._new_call = new_call
        self._call: JsonConstraint | None = None
        self._recent = b""
        self._at_start = True

    def masked(self, row: Logits) -> Logits:
        return row if self._call is None else self._call.masked(row)

    def accept(self, token: int) -> None:
        if self._call is not None:
            self._call.accept(token)
            if self._call.complete:
                self._call, self._recent = None, b""
            return
        self._watch(token)

    def forced(self) -> Sequence[int]:
        return () if self._call is None else self._call.forced()

    def _watch(self, token: int) -> None:
        piece = self._tokenizer.piece(token)
        if token in self._marks:
            self._call = self._new_call()
        elif not self._opening:
            if self._at_start and piece.strip():
                self._at_start = False
                call = self._new_call()
                self._call = call if piece.startswith(b"{") and call.accepts([token]) else None
        else:
            self._recent = (self._recent + piece)[-256:]
            if self._recent.rstrip().endswith(self._opening):
                self._call = self._new_call()
