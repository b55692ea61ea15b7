"""What ExecuTorch's contract test asks of a server like OpenAI's, over bare HTTP. Written from a description of it."""

from __future__ import annotations

import json

import pytest

from tests.serve.conftest import Server
from tests.serve.test_clients import SCHEMA

MULTIBYTE = "naïve 日本語 🙂🙃"
SAY_IT = {
    "type": "json_schema",
    "json_schema": {"name": "word", "schema": {"type": "string", "enum": [MULTIBYTE]}},
}


def test_models_are_a_list_with_the_served_one(server: Server) -> None:
    listed = server.ask("/v1/models").json
    assert listed["object"] == "list" and [one["id"] for one in listed["data"]] == ["demo"]
    assert {one["object"] for one in listed["data"]} == {"model"}


def test_a_chat_has_one_choice_of_the_assistant_with_its_usage(server: Server) -> None:
    said = server.chat("Hi", temperature=0).json
    (choice,) = said["choices"]
    assert (said["object"], choice["index"], choice["message"]["role"]) == ("chat.completion", 0, "assistant")
    assert choice["message"]["content"] and choice["finish_reason"] in ("stop", "length")
    usage = said["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] and usage["prompt_tokens"] > 0


def test_a_stream_is_server_sent_events_each_with_a_choice(server: Server) -> None:
    """It reads the first choice of every chunk: so a chunk of usage alone comes only where it was asked for."""
    reply = server.chat("Hi", temperature=0, stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in reply.body.decode().split("\n\n") if line]
    assert all(line.startswith("data: ") for line in lines) and lines[-1] == "data: [DONE]"
    assert {chunk["object"] for chunk in reply.events} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in reply.events}) == 1
    deltas = [chunk["choices"][0]["delta"] for chunk in reply.events]
    assert deltas[0]["role"] == "assistant" and any(delta.get("content") for delta in deltas)
    assert reply.events[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    *_, counted = server.chat("Hi", stream=True, stream_options={"include_usage": True}).events
    assert counted["choices"] == [] and counted["usage"]["completion_tokens"] > 0


def test_characters_of_several_bytes_arrive_whole(server: Server) -> None:
    """Each is written by several tokens, and no piece holds a part of one."""
    how: dict[str, object] = {"response_format": SAY_IT, "max_tokens": 60}
    assert json.loads(server.chat(MULTIBYTE, **how).json["choices"][0]["message"]["content"]) == MULTIBYTE
    chunks = server.chat(MULTIBYTE, stream=True, **how).events
    pieces = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks]
    assert json.loads("".join(pieces)) == MULTIBYTE and not any("\ufffd" in piece for piece in pieces)


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_call_names_the_function_and_has_json_for_it(server: Server, stream: bool) -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
    reply = server.chat("Weather?", tools=[tool], tool_choice="required", max_tokens=80, stream=stream)
    if stream:
        calls = [one for chunk in reply.events for one in chunk["choices"][0]["delta"].get("tool_calls", ())]
        name = calls[0]["function"]["name"]
        arguments = "".join(one["function"].get("arguments", "") for one in calls)
        finish = reply.events[-1]["choices"][0]["finish_reason"]
    else:
        (choice,) = reply.json["choices"]
        (call,) = choice["message"]["tool_calls"]
        name, arguments, finish = call["function"]["name"], call["function"]["arguments"], choice["finish_reason"]
    assert (name, set(json.loads(arguments)), finish) == ("get_weather", {"city"}, "tool_calls")


def test_a_prompt_that_does_not_fit_is_the_clients_fault(server: Server) -> None:
    """A long conversation does fit: it leaves the window from its front, and the answer says how much did."""
    asked = {"role": "user", "content": "Hi"}
    reply = server.chat(messages=[{"role": "system", "content": "word " * 2000}, asked])
    error = reply.json["error"]
    assert reply.status == 400 and error["type"] == "invalid_request_error" and {"param", "code"} <= set(error)
    long = server.chat(messages=[{"role": "user", "content": "word " * 2000}, asked], max_tokens=4)
    assert long.status == 200 and long.json["edgeinfer"]["evicted"] > 900
