"""A request's body: data from a stranger. It is read within limits, and every value in it is checked before use."""

from __future__ import annotations

import asyncio
import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final, NoReturn, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import ErrorDetails
from starlette.requests import ClientDisconnect, Request

from edgeinfer.errors import UsageError

__all__ = ["Body", "ParameterError", "TooLargeError", "read_body"]

MAX_BODY_BYTES: Final = 8 * 1024 * 1024  # a conversation of some two million tokens
MAX_BODY_S: Final = 30.0
MAX_NESTING: Final = 64
MAX_ITEMS: Final = 100_000  # of all arrays and objects together

SAID_OF_JSON: Final = {
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "it should be an object"),
    "list_type": "it should be an array",
}

BodyT = TypeVar("BodyT", bound="Body")


class ParameterError(UsageError):
    """A parameter that cannot be used. `parameter` is its name, "" where the body as a whole is wrong."""

    def __init__(self, message: str, *, parameter: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.parameter = parameter


class TooLargeError(ParameterError):
    pass


class Body(BaseModel):
    """A part of a body. A field that is not named here is refused by its name; with null it says nothing.

    `hints` say what to send in place of fields that other servers know, and what a field that is missing may be.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    hints: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def without_unknown_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        known = {field.alias or name for name, field in cls.model_fields.items()}
        return {name: one for name, one in value.items() if one is not None or name in known}


async def read_body(request: Request, kind: type[BodyT]) -> BodyT:
    """Raises ParameterError for what cannot be used, TooLargeError for too much of it."""
    try:
        async with asyncio.timeout(MAX_BODY_S):
            data = await limited(request)
    except TimeoutError:
        raise ParameterError(f"the body did not come within {MAX_BODY_S:.0f} s") from None
    return checked(parsed(data), kind)


async def limited(request: Request) -> bytes:
    parts: list[bytes] = []
    n_bytes = 0
    try:
        async for part in request.stream():
            n_bytes += len(part)
            if n_bytes > MAX_BODY_BYTES:
                raise TooLargeError(
                    f"the body is larger than {MAX_BODY_BYTES} bytes", hint="send less of the conversation"
                )
            parts.append(part)
    except ClientDisconnect:
        raise ParameterError("the body was cut off") from None
    return b"".join(parts)


def parsed(data: bytes) -> object:
    """The JSON in `data`, held to be text that UTF-8 can carry, without NaN, and of a size that can be handled."""
    hint = "the body must be one JSON object in UTF-8"
    if not data.strip():
        raise ParameterError("the body is empty", hint=hint)
    try:
        value = json.loads(data.decode("utf-8-sig"), parse_constant=refuse_constant, object_pairs_hook=unique_names)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0][:200]
        raise ParameterError(f"the body is not JSON: {what}", hint=hint) from None
    check_size(value)
    return value


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name appears twice in one object")
    return names


def check_size(value: object) -> None:
    """Raises TooLargeError for too many values, or values nested too deeply; ParameterError for lone surrogates."""
    n_items = 0
    level: list[object] = [value]
    for _ in range(MAX_NESTING):
        inner: list[object] = []
        for one in level:
            if isinstance(one, str):
                check_text(one)
            elif isinstance(one, dict):
                for name in one:
                    check_text(name)
                inner += one.values()
            elif isinstance(one, list):
                inner += one
        n_items += len(inner)
        if n_items > MAX_ITEMS:
            raise TooLargeError(f"the body holds more than {MAX_ITEMS} values")
        if not inner:
            return
        level = inner
    raise TooLargeError(f"the body is nested more than {MAX_NESTING} levels deep")


def check_text(text: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ParameterError("the body holds characters that UTF-8 cannot carry") from None


def checked(value: object, kind: type[BodyT]) -> BodyT:
    try:
        return kind.model_validate(value, strict=False)
    except ValidationError as error:
        raise parameter_error(error, kind, value) from None


def parameter_error(error: ValidationError, kind: type[Body], body: object) -> ParameterError:
    """The mistake that says most, in one plain line."""
    mistakes = error.errors(include_url=False, include_input=False)
    deepest = max(len(one["loc"]) for one in mistakes)  # of the alternatives of a union, the one that came closest
    first = min(mistakes, key=lambda one: (*in_question(one), len(one["loc"]) < deepest, is_another_type(one)))
    kind_of_mistake, limits = first["type"], first.get("ctx", {})
    is_missing = kind_of_mistake == "missing"
    place = name_of(first["loc"], body, of_missing=is_missing)
    if kind_of_mistake == "extra_forbidden":
        known = list(kind.model_fields) if len(first["loc"]) == 1 else []
        near = difflib.get_close_matches(place, known, n=2)
        meant = "did you mean " + " or ".join(f"`{name}`" for name in near) + "?" if near else "leave it out"
        hint = kind.hints.get(place, meant)
        return ParameterError(f"`{place}` is not supported", parameter=place, hint=hint)
    if limits.get("max_length") == 0:
        return ParameterError(f"`{place}` is not supported", parameter=place, hint="leave it out")
    if is_missing:
        return ParameterError(f"`{place}` is missing", parameter=place, hint=kind.hints.get(place, ""))
    if not place:
        return ParameterError("the body must be a JSON object")
    if kind_of_mistake == "union_tag_not_found":
        return ParameterError(f"`{place}.type` is missing", parameter=f"{place}.type")
    said = first["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    if kind_of_mistake == "literal_error":
        said = said.replace("False", "false").replace("True", "true")
    said = SAID_OF_JSON.get(kind_of_mistake, said.replace(" after validation", ""))
    if kind_of_mistake == "union_tag_invalid":
        place, said = f"{place}.type", f"it should be one of {limits['expected_tags']}"
    return ParameterError(f"`{place}` cannot be used: {said[0].lower()}{said[1:]}"[:500], parameter=place)


def in_question(mistake: ErrorDetails) -> tuple[bool, bool]:
    """Sorts first what makes the other mistakes of a part follow: another `type`, then a field that is not known."""
    kind = mistake["type"]
    of_type = kind == "union_tag_invalid" or (kind == "literal_error" and mistake["loc"][-1] == "type")
    return not of_type, kind != "extra_forbidden"


def is_another_type(mistake: ErrorDetails) -> bool:
    """Of the alternatives `a string` and `a list`, the list is meant where there is one."""
    return mistake["type"].endswith("_type")


def name_of(path: Sequence[int | str], body: object, *, of_missing: bool) -> str:
    """`messages[0].content` for ("messages", 0, "content"), without the names of alternatives that pydantic adds."""
    text, last = "", len(path) - 1
    for at, part in enumerate(path):
        if isinstance(part, int):
            text += f"[{part}]"
            body = body[part] if isinstance(body, list) else None
        elif isinstance(body, dict) and (part in body or (of_missing and at == last)):
            text += f".{part}" if text else part
            body = body.get(part)
    return text[:200]
