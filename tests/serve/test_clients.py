"""The Python clients of OpenAI, Anthropic and Ollama parse what the server sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import openai
import pytest

from tests.serve.conftest import Server

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}},
    "required": ["city"],
    "additionalProperties": False,
}
GREEDY = {"temperature": 0}  # this client has no such parameter any more
ASK: Any = [{"role": "user", "content": "Weather in Paris?"}]


@pytest.fixture
def openai_client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(server: Server) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def ollama_client(server: Server) -> Iterator[ollama.Client]:
    with ollama.Client(server.url) as client:
        yield client


def test_openai_chat(openai_client: openai.OpenAI) -> None:
    assert [model.id for model in openai_client.models.list()] == ["demo"]
    whole = openai_client.chat.completions.create(model="demo", messages=ASK, max_tokens=20, temperature=0)
    stream = openai_client.chat.completions.create(
        model="demo", messages=ASK, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert said == whole.choices[0].message.content and said
    assert chunks[-1].usage and whole.usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_openai_tools_and_forms(openai_client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
    called = openai_client.chat.completions.create(
        model="demo", messages=ASK, tools=[tool], tool_choice="required", max_tokens=100
    )
    calls: Any = called.choices[0].message.tool_calls
    (call,) = calls
    assert call.type == "function" and set(json.loads(call.function.arguments)) == {"city"}
    echoed: Any = [*ASK, called.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}]
    assert openai_client.chat.completions.create(model="demo", messages=echoed, tools=[tool], max_tokens=5).choices


def test_openai_responses(openai_client: openai.OpenAI) -> None:
    whole = openai_client.responses.create(model="demo", input="Hi", max_output_tokens=20, temperature=0)
    stream = openai_client.responses.create(model="demo", input="Hi", max_output_tokens=20, temperature=0, stream=True)
    said = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert said == whole.output_text and said
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        openai_client.responses.create(model="demo", input="Hi", previous_response_id="resp_1")


def test_openai_errors(openai_client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="not served here"):
        openai_client.chat.completions.create(model="gpt-4o", messages=ASK)
    with pytest.raises(openai.BadRequestError, match="`modalities` is not supported"):
        openai_client.chat.completions.create(model="demo", messages=ASK, modalities=["audio"])


def test_openai_completions(openai_client: openai.OpenAI) -> None:
    text = openai_client.completions.create(model="demo", prompt="Once upon a", max_tokens=8, temperature=0, seed=1)
    ids = openai_client.completions.create(model="demo", prompt="Once upon a", max_tokens=8, temperature=0, stream=True)
    assert "".join(chunk.choices[0].text for chunk in ids) == text.choices[0].text
    assert text.choices[0].finish_reason == "length"


def test_anthropic_messages(anthropic_client: anthropic.Anthropic) -> None:
    whole = anthropic_client.messages.create(
        model="demo", max_tokens=20, messages=ASK, extra_body=GREEDY, system="Be kind."
    )
    with anthropic_client.messages.stream(
        model="demo", max_tokens=20, messages=ASK, extra_body=GREEDY, system="Be kind."
    ) as stream:
        said = "".join(stream.text_stream)
        final = stream.get_final_message()
    (block,) = whole.content
    assert block.type == "text" and said == block.text and said
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    counted = anthropic_client.messages.count_tokens(model="demo", messages=ASK, system="Be kind.")
    usage = whole.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_anthropic_tools(anthropic_client: anthropic.Anthropic) -> None:
    asked: Any = {
        "model": "demo",
        "max_tokens": 100,
        "tools": [{"name": "get_weather", "description": "The weather", "input_schema": SCHEMA}],
    }
    called = anthropic_client.messages.create(messages=ASK, tool_choice={"type": "any"}, **asked)
    (block,) = called.content
    assert called.stop_reason == "tool_use" and block.type == "tool_use" and set(block.input) == {"city"}
    with anthropic_client.messages.stream(messages=ASK, tool_choice={"type": "any"}, **asked) as stream:
        streamed = stream.get_final_message().content[0]
    assert streamed.type == "tool_use" and set(streamed.input) == {"city"}
    result: Any = {"type": "tool_result", "tool_use_id": block.id, "content": "Sunny"}
    echoed: Any = [*ASK, {"role": "assistant", "content": called.content}, {"role": "user", "content": [result]}]
    assert anthropic_client.messages.create(messages=echoed, **{**asked, "max_tokens": 5}).content


def test_anthropic_models_and_forms(anthropic_client: anthropic.Anthropic) -> None:
    (model,) = anthropic_client.models.list()
    assert model.type == "model" and model.display_name and model.created_at.year > 2025
    assert anthropic_client.models.retrieve("demo") == model
    form: Any = {"format": {"type": "json_schema", "schema": SCHEMA}, "effort": "low"}
    answer = anthropic_client.messages.create(model="demo", max_tokens=60, messages=ASK, output_config=form)
    (block,) = answer.content
    assert block.type == "text" and set(json.loads(block.text)) == {"city"}
    tool: Any = {"name": "f", "input_schema": SCHEMA}
    with pytest.raises(anthropic.BadRequestError, match="cannot call tools"):
        anthropic_client.messages.create(model="demo", max_tokens=5, messages=ASK, output_config=form, tools=[tool])


def test_anthropic_errors_and_stop_sequences(anthropic_client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError, match="not served here"):
        anthropic_client.messages.create(model="claude", max_tokens=5, messages=ASK)
    plain = anthropic_client.messages.create(model="demo", max_tokens=20, messages=ASK, extra_body=GREEDY).content[0]
    assert plain.type == "text"
    word = plain.text[5:9]
    stopped = anthropic_client.messages.create(
        model="demo", max_tokens=20, messages=ASK, extra_body=GREEDY, stop_sequences=[word]
    )
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", word)


def test_ollama_chat_and_generate(ollama_client: ollama.Client) -> None:
    options = {"temperature": 0, "num_predict": 20}
    whole = ollama_client.chat("demo", ASK, options=options)
    parts = list(ollama_client.chat("demo", ASK, options=options, stream=True))
    assert "".join(part.message.content or "" for part in parts) == whole.message.content
    assert parts[-1].done and parts[-1].eval_count == whole.eval_count and whole.done_reason in ("stop", "length")
    assert ollama_client.generate("demo", "Weather in Paris?", options=options).response == whole.message.content
    assert ollama_client.generate("demo", "").done_reason == "load"
    person = ollama_client.chat("demo", ASK, format=SCHEMA, options={"num_predict": 60}).message.content
    assert set(json.loads(person or "")) == {"city"}


def test_ollama_log_probabilities(ollama_client: ollama.Client, openai_client: openai.OpenAI) -> None:
    options = {"temperature": 0, "num_predict": 8, "num_thread": 2, "num_gpu": 0}
    whole = ollama_client.chat("demo", ASK, options=options, logprobs=True, top_logprobs=2)
    parts = ollama_client.chat("demo", ASK, options=options, logprobs=True, top_logprobs=2, stream=True)
    assert [one for part in parts for one in part.logprobs or ()] == list(whole.logprobs or ())
    same = openai_client.chat.completions.create(
        model="demo", messages=ASK, temperature=0, max_tokens=8, logprobs=True, top_logprobs=2
    )
    likely: Any = same.choices[0].logprobs
    assert [(one.token, one.logprob) for one in whole.logprobs or ()] == [
        (one.token, one.logprob) for one in likely.content
    ]
    assert len(likely.content) > 3
    with pytest.raises(ollama.ResponseError, match="needs `logprobs: true`"):
        ollama_client.generate("demo", "Hi", top_logprobs=2)


def test_ollama_speaks_a_version_that_clients_accept(server: Server) -> None:
    """VS Code asks for 0.6.4 at least, and agents that use Anthropic's protocol for 0.14."""
    assert tuple(map(int, server.ask("/api/version").json["version"].split("."))) >= (0, 14, 2)


def test_ollama_lists(ollama_client: ollama.Client) -> None:
    (model,) = ollama_client.list().models
    assert model.model == "demo" and model.details and model.details.quantization_level == "Q4_0"
    assert "tools" in (ollama_client.show("demo").capabilities or ())
    assert ollama_client.ps().models[0].model == "demo"
    with pytest.raises(ollama.ResponseError, match="num_ctx"):
        ollama_client.chat("demo", ASK, options={"num_ctx": 100_000})
    with pytest.raises(ollama.ResponseError, match="not served here"):
        ollama_client.show("llama3")
