"""What every protocol carries: reasoning, characters of several bytes, several answers, log probabilities."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import ollama
import openai
import pytest

import edgeinfer
from edgeinfer.plan import Request
from edgeinfer.serve.http.safety import Access
from tests.serve.conftest import Server, running
from tests.serve.test_constrained import PERSON, form
from tests.serve.test_contract import MULTIBYTE

ASK: Any = [{"role": "user", "content": "Weather in Paris?"}]
THINKS = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
<think>
{% if enable_thinking is defined and not enable_thinking %}
</think>

{% endif %}{% endif %}"""


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose answers begin with reasoning, as Qwen 3's."""
    template = tmp_path_factory.mktemp("template") / "thinks.jinja"
    template.write_text(THINKS)
    plan = edgeinfer.choose(Request(model="demo", conversations=2, context=512, sink=128))
    yield from running(Access("127.0.0.1"), plan, str(template))


def test_openai_reasoning(thinking: Server) -> None:
    with openai.OpenAI(base_url=f"{thinking.url}/v1", api_key="none", max_retries=0) as client:
        ask: dict[str, Any] = {"model": "demo", "messages": ASK, "max_tokens": 12, "temperature": 0}
        whole: Any = client.chat.completions.create(**ask)
        message = whole.choices[0].message
        assert message.reasoning_content and not message.content
        assert whole.usage.completion_tokens_details.reasoning_tokens == whole.usage.completion_tokens > 0
        deltas: list[Any] = [
            chunk.choices[0].delta for chunk in client.chat.completions.create(**ask, stream=True) if chunk.choices
        ]
        assert "".join(getattr(one, "reasoning_content", "") for one in deltas) == message.reasoning_content
        plain: Any = client.chat.completions.create(**ask, reasoning_effort="none")
        assert plain.choices[0].message.content and not hasattr(plain.choices[0].message, "reasoning_content")
        echoed: Any = [*ASK, message.model_dump(exclude_none=True), *ASK]
        assert client.chat.completions.create(model="demo", messages=echoed, max_tokens=2).choices


def test_responses_reasoning(thinking: Server) -> None:
    with openai.OpenAI(base_url=f"{thinking.url}/v1", api_key="none", max_retries=0) as client:
        ask: dict[str, Any] = {"model": "demo", "input": ASK, "max_output_tokens": 12, "temperature": 0}
        whole: Any = client.responses.create(**ask)
        (item,) = whole.output
        assert item.type == "reasoning" and item.content[0].text
        events: list[Any] = list(client.responses.create(**ask, stream=True))
        deltas = [event for event in events if event.type == "response.reasoning_text.delta"]
        assert all(isinstance(one, openai.types.responses.ResponseReasoningTextDeltaEvent) for one in deltas)
        (done,) = [event for event in events if event.type == "response.reasoning_text.done"]
        assert "".join(one.delta for one in deltas) == done.text == item.content[0].text
        assert [event.sequence_number for event in events] == list(range(len(events)))
        plain: Any = client.responses.create(**ask, reasoning={"effort": "none"})
        assert [one.type for one in plain.output] == ["message"] and plain.output_text
        echoed: Any = [*ASK, *whole.output, *plain.output, *ASK]
        assert client.responses.create(model="demo", input=echoed, max_output_tokens=2).output


def test_anthropic_thinking_ends_at_its_budget(thinking: Server) -> None:
    with anthropic.Anthropic(base_url=thinking.url, api_key="none", max_retries=0) as client:
        ask: dict[str, Any] = {"model": "demo", "messages": ASK, "max_tokens": 24, "extra_body": {"temperature": 0}}
        budget: Any = {"type": "enabled", "budget_tokens": 5}
        whole: Any = client.messages.create(**ask, thinking=budget)
        thought, said = whole.content
        assert (thought.type, said.type) == ("thinking", "text") and thought.thinking and said.text
        assert whole.usage.output_tokens_details.thinking_tokens == 5
        with client.messages.stream(**ask, thinking=budget) as stream:
            kinds = [event.type for event in stream]
            streamed: Any = stream.get_final_message()
        assert [(one.type, getattr(one, "thinking", "") or one.text) for one in streamed.content] == [
            ("thinking", thought.thinking),
            ("text", said.text),
        ]
        assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2
        (plain,) = client.messages.create(**ask).content
        assert plain.type == "text"
        echoed: Any = [*ASK, {"role": "assistant", "content": whole.content}, *ASK]
        assert client.messages.create(model="demo", messages=echoed, max_tokens=2).content


def test_ollama_thinking(thinking: Server) -> None:
    with ollama.Client(thinking.url) as client:
        options = {"temperature": 0, "num_predict": 12}
        whole = client.chat("demo", ASK, options=options).message
        assert whole.thinking and not whole.content
        parts = client.chat("demo", ASK, options=options, stream=True, think=True)
        assert "".join(part.message.thinking or "" for part in parts) == whole.thinking
        plain = client.chat("demo", ASK, options=options, think=False).message
        assert plain.content and not plain.thinking
        assert "thinking" in (client.show("demo").capabilities or ())
        assert client.chat("demo", [*ASK, whole, *ASK], options={"num_predict": 2}).message
        assert client.generate("demo", "Hi", options=options).thinking


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/messages", "/api/chat", "/api/generate"])
def test_characters_of_several_bytes_arrive_whole(server: Server, path: str) -> None:
    """As for chat completions in test_contract.py: each is written by several tokens."""
    word = {"type": "string", "enum": [MULTIBYTE]}
    ask: dict[str, Any] = {"model": "demo", "stream": True, "messages": ASK}
    if path == "/v1/responses":
        ask = {"model": "demo", "stream": True, "input": "Hi", "text": {"format": form(word)["json_schema"]}}
        ask["text"]["format"] = {"type": "json_schema", **ask["text"]["format"]}
        events = server.ask(path, ask).events
        pieces = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    elif path == "/v1/messages":
        tool = {"name": "say", "input_schema": {"type": "object", "properties": {"word": word}, "required": ["word"]}}
        events = server.ask(path, {**ask, "max_tokens": 80, "tools": [tool], "tool_choice": {"type": "any"}}).events
        (said,) = [event["delta"]["partial_json"] for event in events if event["type"] == "content_block_delta"]
        pieces = [json.dumps(json.loads(said)["word"], ensure_ascii=False)]
    else:
        ask = {**ask, "format": word} if path == "/api/chat" else {**ask, "format": word, "prompt": "Hi"}
        ask = ask if path == "/api/chat" else {name: one for name, one in ask.items() if name != "messages"}
        lines = [json.loads(line) for line in server.ask(path, ask).body.decode().splitlines()]
        pieces = [line["message"]["content"] if path == "/api/chat" else line["response"] for line in lines]
    assert json.loads("".join(pieces)) == MULTIBYTE and not any("\ufffd" in piece for piece in pieces)


def test_an_answer_of_nothing_is_a_text_in_a_stream_too(server: Server) -> None:
    """The first token of these words is the stop string."""
    ask: dict[str, Any] = {"model": "demo", "max_tokens": 5, "messages": ASK, "top_k": 1}
    first = server.ask("/v1/messages", ask).json["content"][0]["text"][:1]
    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0) as client:
        ask = {"model": "demo", "max_tokens": 5, "messages": ASK, "stop_sequences": [first], "extra_body": {"top_k": 1}}
        with client.messages.stream(**ask) as stream:
            streamed = stream.get_final_message()
        blocks: list[Any] = [*streamed.content, *client.messages.create(**ask).content]
        assert [(block.type, block.text) for block in blocks] == [("text", ""), ("text", "")]


def test_several_answers_stop_each_at_its_own_place(server: Server) -> None:
    ask: dict[str, Any] = {"temperature": 1, "seed": 3, "max_tokens": 40}
    plain = [one["message"]["content"] for one in server.chat(n=4, **ask).json["choices"]]
    stops = ["e", " t"]
    cut = [min((text.find(stop) for stop in stops if stop in text), default=len(text)) for text in plain]
    assert len(set(plain)) > 1 and len(set(cut)) > 1
    choices = server.chat(n=4, stop=stops, **ask).json["choices"]
    assert [one["message"]["content"] for one in choices] == [text[:at] for text, at in zip(plain, cut, strict=True)]
    streamed = ["", "", "", ""]
    for chunk in server.chat(n=4, stop=stops, stream=True, **ask).events:
        (choice,) = chunk["choices"]
        streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert streamed == [one["message"]["content"] for one in choices]


def test_several_answers_hold_a_schema_each(server: Server) -> None:
    ask: dict[str, Any] = {"response_format": form(PERSON), "temperature": 1, "max_tokens": 120}
    single = [server.chat(seed=seed, **ask).json["choices"][0]["message"]["content"] for seed in (3, 4, 5)]
    together = [one["message"]["content"] for one in server.chat(seed=3, n=3, **ask).json["choices"]]
    assert together == single and all(set(json.loads(text)) == {"name", "age"} for text in together)


def test_a_bias_cannot_leave_the_schema(server: Server) -> None:
    encode = server.served.tokenizer.encode
    (brace,), (bracket,) = encode("{", special=False), encode("[", special=False)
    bias = {str(bracket): 100, str(brace): -100}
    reply = server.chat(response_format=form(PERSON), logit_bias=bias, temperature=0, max_tokens=120).json
    assert set(json.loads(reply["choices"][0]["message"]["content"])) == {"name", "age"}


def test_streamed_log_probabilities_are_those_of_the_whole_answer(server: Server) -> None:
    ask: dict[str, Any] = {"temperature": 0, "logprobs": True, "top_logprobs": 2, "max_tokens": 30}
    whole = server.chat(MULTIBYTE, **ask).json["choices"][0]
    chunks = [chunk["choices"][0] for chunk in server.chat(MULTIBYTE, stream=True, **ask).events]
    tokens = [token for chunk in chunks for token in (chunk["logprobs"] or {"content": []})["content"]]
    assert tokens == whole["logprobs"]["content"] and len(tokens) > 1


def test_offsets_of_a_streamed_completion_continue(server: Server) -> None:
    ask = {"model": "demo", "prompt": "Once upon a", "temperature": 0, "logprobs": 2, "max_tokens": 8}
    whole = server.ask("/v1/completions", ask).json["choices"][0]
    parts = [one["choices"][0]["logprobs"] for one in server.ask("/v1/completions", {**ask, "stream": True}).events]
    for name, values in whole["logprobs"].items():
        assert [one for part in parts if part for one in part[name]] == values
    offsets = whole["logprobs"]["text_offset"]
    assert [
        whole["text"][at:].startswith(token) for at, token in zip(offsets, whole["logprobs"]["tokens"], strict=True)
    ]


@pytest.mark.parametrize(("n_times", "hint"), [(200, "fits it"), (2000, "shorten it")])
def test_clients_see_by_its_code_that_a_prompt_is_too_long(server: Server, n_times: int, hint: str) -> None:
    """Agents shorten the conversation then."""
    system, turn = "The quick brown fox. " * n_times, {"role": "user", "content": "Hi"}
    error = server.chat("Hi", messages=[{"role": "system", "content": system}, turn]).json["error"]
    assert error["code"] == "context_length_exceeded" and hint in error["message"]
    body = {"model": "demo", "max_tokens": 5, "system": system, "messages": [turn]}
    error = server.ask("/v1/messages", body).json["error"]
    assert error["type"] == "invalid_request_error" and error["message"].startswith("prompt is too long: ")
