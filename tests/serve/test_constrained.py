"""Answers that must be JSON, and calls of tools, on the demo model."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from edgeinfer.chat.tool_formats import GENERIC, ToolFormat
from edgeinfer.protocols import Tokenizer
from edgeinfer.serve.grammar import Grammars
from edgeinfer.serve.tools.constraint import CallsInText, calls_schema
from edgeinfer.types import Tool
from tests.serve.conftest import Server

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "get_time"}}


def form(schema: Any) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 1.2, "seed": 3}], ids=["greedy", "seeded"])
def test_an_answer_with_a_schema_is_compact_json(server: Server, how: dict[str, object]) -> None:
    choice = server.chat("Name a person.", response_format=form(PERSON), max_tokens=200, **how).json["choices"][0]
    text = choice["message"]["content"]
    value = json.loads(text)
    assert set(value) == {"name", "age"} and 0 <= value["age"] <= 120
    assert text == json.dumps(value, separators=(",", ":"), ensure_ascii=False) or "\\u" in text
    assert choice["finish_reason"] == "stop"


def test_a_json_object_without_a_schema(server: Server) -> None:
    choice = server.chat("Hi", response_format={"type": "json_object"}, temperature=0, max_tokens=300).json["choices"][
        0
    ]
    assert choice["message"]["content"].startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_json_is_the_same_alone_and_beside_others(server: Server) -> None:
    def ask(seed: int) -> str:
        reply = server.chat("Name one.", response_format=form(PERSON), temperature=1, seed=seed, max_tokens=120)
        said: str = reply.json["choices"][0]["message"]["content"]
        return said

    alone = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == alone
    assert len(set(alone)) > 1


def test_forced_tokens_are_drafted_and_accepted(server: Server) -> None:
    figures = server.chat("Name a person.", response_format=form(PERSON), temperature=0, max_tokens=100).json[
        "edgeinfer"
    ]
    assert figures["accepted"] > 0 and "forced" in figures["arms"]


@pytest.mark.parametrize(
    "schema",
    [{"type": "nope"}, {"$ref": "#/nope"}, {"type": "string", "pattern": "(?=a)b"}, {"not": {}}],
    ids=["type", "reference", "look-around", "not"],
)
def test_an_unsupported_schema_is_refused(server: Server, schema: dict[str, object]) -> None:
    reply = server.chat(response_format=form(schema))
    assert reply.status == 400 and reply.json["error"]["param"] == "response_format"
    tool = {
        "type": "function",
        "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": schema}}},
    }
    reply = server.chat(tools=[tool])
    assert reply.status == 400 and reply.json["error"]["param"] == "tools"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(3000)}},
        {
            "$defs": {"n": {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "required": ["n"]}},
            "$ref": "#/$defs/n",
        },
    ],
    ids=["wide", "endless"],
)
def test_a_schema_that_is_too_much_for_the_parser_is_the_mistake_of_the_request(
    server: Server, schema: dict[str, object]
) -> None:
    reply = server.chat(response_format=form(schema))
    error = reply.json["error"]
    assert (reply.status, error["type"]) == (400, "invalid_request_error")
    assert "cannot be followed further" in error["message"] and "\n" not in error["message"]
    assert server.chat().status == 200


def test_a_required_tool_is_called_according_to_its_schema(server: Server) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        tools = [WEATHER] if choice == "required" else [CLOCK, WEATHER]
        reply = server.chat("Weather in Paris?", tools=tools, tool_choice=choice, temperature=0, max_tokens=100).json
        answer = reply["choices"][0]
        assert answer["finish_reason"] == "tool_calls" and answer["message"]["content"] is None
        (call,) = answer["message"]["tool_calls"]
        assert call["type"] == "function" and call["function"]["name"] == "get_weather" and call["id"]
        assert set(json.loads(call["function"]["arguments"])) == {"city"}


ITEM = {
    "type": "object",
    "properties": {"sku": {"type": "string", "maxLength": 5}, "parts": {"$ref": "#/$defs/Parts"}},
    "required": ["sku"],
    "additionalProperties": False,
}
ORDER = {
    "$defs": {"Item": ITEM, "Parts": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "maxItems": 1}},
    "type": "object",
    "properties": {"items": {"type": "array", "items": {"$ref": "#/$defs/Item"}, "minItems": 1, "maxItems": 2}},
    "required": ["items"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("written", [GENERIC, ToolFormat("[TOOL_CALLS]", is_list=True)], ids=["one", "list"])
@pytest.mark.parametrize("more", [{}, {"$id": "https://example.com/order"}], ids=["bare", "with an id"])
@pytest.mark.parametrize("before", [[], [Tool("clock")]], ids=["alone", "second"])
def test_references_in_a_schema_of_a_tool_name_its_own_parts(
    server: Server, written: ToolFormat, before: list[Tool], more: dict[str, str]
) -> None:
    tools = [*before, Tool("order", "", json.dumps({**more, **ORDER}))]
    call = Grammars(server.served.tokenizer).json(calls_schema(tools, written), parameter="tools")

    def may_be(items: object) -> bool:
        value = {"name": "order", "arguments": {"items": items}}
        text = json.dumps([value] if written.is_list else value, separators=(",", ":"))
        return call.copy().accepts(server.served.tokenizer.encode(text, special=False))

    assert may_be([{"sku": "a"}]) and may_be([{"sku": "a", "parts": [{"sku": "b", "parts": []}]}])
    assert not may_be([{"sku": 1}]) and not may_be([{"sku": "a", "parts": [{"sku": "b"}, {"sku": "c"}]}])


@pytest.mark.parametrize(
    "parameters",
    [{}, {"description": "x"}, {"properties": {}}, {"type": ["object", "null"]}, {"anyOf": [{"type": "object"}, {}]}],
)
def test_arguments_are_an_object_whatever_the_schema_leaves_open(server: Server, parameters: dict[str, object]) -> None:
    call = Grammars(server.served.tokenizer).json(
        calls_schema([Tool("note", "", json.dumps(parameters))], GENERIC), parameter="tools"
    )
    start = '{"name":"note","arguments":'
    for arguments, allowed in (("{", True), ('"', False), ("[", False), ("n", False), ("1", False)):
        assert call.copy().accepts(server.served.tokenizer.encode(start + arguments, special=False)) == allowed


def test_arguments_that_cannot_be_an_object_are_refused(server: Server) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "string"}}}
    reply = server.chat(tools=[tool])
    assert reply.status == 400 and reply.json["error"]["param"] == "tools"


def test_a_stream_has_the_same_call_as_the_whole_answer(server: Server) -> None:
    asked: dict[str, Any] = {"tools": [WEATHER, CLOCK], "tool_choice": "required", "temperature": 0, "max_tokens": 100}
    whole = server.chat("Weather in Paris?", **asked).json["choices"][0]["message"]["tool_calls"]
    chunks = server.chat("Weather in Paris?", stream=True, **asked).events
    calls = [call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert [call["function"] for call in calls] == [call["function"] for call in whole]
    assert [call["index"] for call in calls] == [0]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_a_call_is_the_same_alone_and_beside_others(server: Server) -> None:
    def ask(seed: int) -> str:
        how: dict[str, Any] = {"tools": [WEATHER], "tool_choice": "required", "temperature": 1, "max_tokens": 100}
        reply = server.chat("Weather in Paris?", seed=seed, **how)
        said: str = reply.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]
        return said

    alone = [ask(seed) for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(4))) == alone
    assert len(set(alone)) > 1


def test_a_result_is_part_of_the_conversation(server: Server) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees"},
    ]
    reply = server.chat(messages=messages, tools=[WEATHER])
    assert reply.status == 200
    without = server.chat(messages=[messages[0], messages[1], {**messages[2], "content": "Rain"}], tools=[WEATHER])
    assert without.json["usage"]["prompt_tokens"] != reply.json["usage"]["prompt_tokens"]
    lost = server.chat(messages=[messages[0], messages[2]], tools=[WEATHER])
    assert lost.status == 400 and "which nobody made" in lost.json["error"]["message"]


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].function"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
def test_contradictory_requests_are_refused(server: Server, change: dict[str, object], parameter: str) -> None:
    reply = server.chat(**change)  # type: ignore[arg-type]
    assert reply.status == 400, reply.json
    assert reply.json["error"]["param"] in (parameter, parameter.partition(".")[0] + ".type")


def likes(tokenizer: Tokenizer, text: str) -> Any:
    """A row whose best tokens write `text`."""
    row = np.zeros(tokenizer.n_vocab, np.float32)
    row[tokenizer.encode(text, special=False)[0]] = 5.0
    return row


@pytest.mark.parametrize("bare", [False, True], ids=["marked", "bare"])
def test_text_is_free_until_a_call_opens_and_the_call_follows_its_schema(server: Server, bare: bool) -> None:
    tokenizer = server.served.tokenizer
    written = ToolFormat("", arguments="parameters") if bare else GENERIC
    tools = [Tool("get_weather", "", json.dumps(WEATHER["function"]["parameters"]))]  # type: ignore[index]
    call = Grammars(tokenizer).json(calls_schema(tools, written), parameter="tools")
    constraint = CallsInText(tokenizer, written, call.copy)
    if not bare:
        for token in tokenizer.encode("Let me see. <tool_call>", special=False):
            row = likes(tokenizer, "Never")
            assert constraint.masked(row) is row and not constraint.forced()
            constraint.accept(token)
    said = ""
    if bare:
        (said_token, *_) = tokenizer.encode("{", special=False)
        constraint.accept(said_token)
        said = "{"
    for _ in range(60):
        row = constraint.masked(likes(tokenizer, "Never"))
        if np.isfinite(row).all():
            break
        token = constraint.forced()[0] if constraint.forced() else int(row.argmax())
        said += tokenizer.piece(token).decode()
        constraint.accept(token)
    value = json.loads(said)
    assert value["name"] == "get_weather" and list(value[written.arguments]) == ["city"]
    row = likes(tokenizer, "Never")
    assert constraint.masked(row) is row  # free again


def test_an_incomplete_object_is_not_a_call(server: Server) -> None:
    tokenizer = server.served.tokenizer
    written = ToolFormat("", arguments="parameters")
    call = Grammars(tokenizer).json(calls_schema([Tool("f")], written), parameter="tools")
    constraint = CallsInText(tokenizer, written, call.copy)
    row = likes(tokenizer, "Never")
    for token in tokenizer.encode("Hello {", special=False):
        constraint.accept(token)
        assert constraint.masked(row) is row


def test_a_request_with_tools_may_be_answered_in_words(server: Server) -> None:
    reply = server.chat("Hi", tools=[WEATHER, CLOCK], temperature=0)
    assert reply.status == 200 and reply.json["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")
