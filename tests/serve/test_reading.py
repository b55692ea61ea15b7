"""What a body that cannot be used is answered with: one line that names the parameter as the client wrote it."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from edgeinfer.serve.anthropic.body import MessagesBody
from edgeinfer.serve.http.reading import Body, ParameterError, checked
from edgeinfer.serve.ollama.body import ChatBody as OllamaBody
from edgeinfer.serve.openai.chat import ChatBody
from edgeinfer.serve.openai.responses_body import ResponsesBody

USER = {"role": "user", "content": "Hi"}


def chat(**more: object) -> Mapping[str, object]:
    return {"model": "demo", "messages": [USER], **more}


def said(content: object) -> Mapping[str, object]:
    return chat(max_tokens=5, messages=[{"role": "user", "content": content}])


def response(*items: object, **more: object) -> Mapping[str, object]:
    return {"model": "demo", "input": list(items) or "Hi", **more}


IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.com"}}


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        (ChatBody, said([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {}}]),
         "`messages[0].content[1].type` cannot be used: it should be 'text'"),
        (ChatBody, said([{"type": "text"}]), "`messages[0].content[0].text` is missing"),
        (ChatBody, said([{"type": "text", "text": "a", "size": 1}]), "`messages[0].content[0].size` is not supported"),
        (ChatBody, chat(stop=["x"] * 17), "`stop` cannot be used: list should have at most 16 items, not 17"),
        (ChatBody, chat(logit_bias=[1]), "`logit_bias` cannot be used: it should be an object"),
        (ChatBody, chat(logit_bias={"7": 300}), "`logit_bias.7` cannot be used: it should be less "
         "than or equal to 100"),
        (ChatBody, chat(tools=[{"type": "custom", "custom": {}}]),
         "`tools[0].type` cannot be used: it should be 'function'"),
        (ChatBody, chat(tool_choice={"type": "function"}), "`tool_choice.function` is missing"),
        (ChatBody, chat(tool_choice="maybe"),
         "`tool_choice` cannot be used: it should be 'auto', 'none' or 'required'"),
        (ChatBody, chat(functions=[]), "`functions` is not supported"),
        (ChatBody, chat(store=True), "`store` cannot be used: it should be false"),
        (ChatBody, chat(max_tokens=-2), "`max_tokens` cannot be used: it should be greater than or equal to 1"),
        (MessagesBody, said([IMAGE]), "`messages[0].content[0].type` cannot be used: it should be one of 'text', "
         "'tool_use', 'tool_result', 'thinking', 'redacted_thinking'"),
        (MessagesBody, said([{"type": "tool_result", "tool_use_id": "a", "content": [IMAGE]}]),
         "`messages[0].content[0].content[0].type` cannot be used: it should be 'text'"),
        (MessagesBody, said([{"text": "a"}]), "`messages[0].content[0].type` is missing"),
        (MessagesBody, chat(max_tokens=5, tools=[{"type": "bash_20250124", "name": "bash"}]),
         "`tools[0].type` cannot be used: it should be 'custom'"),
        (ResponsesBody, response({"type": "item_reference", "id": "a"}), "`input[0].type` cannot be used: it should be "
         "one of 'message', 'function_call', 'function_call_output', 'reasoning'"),
        (ResponsesBody, response({"type": "function_call", "name": "a", "call_id": "b"}),
         "`input[0].arguments` is missing"),
        (ResponsesBody, response("Hi"), "`input[0]` cannot be used: it should be an object"),
        (ResponsesBody, response(previous_response_id="a"), "`previous_response_id` is not supported"),
        (OllamaBody, chat(messages=[{**USER, "images": ["aGVsbG8="]}]), "`messages[0].images` is not supported"),
        (OllamaBody, chat(options={"mirostat": 1}), "`options.mirostat` is not supported"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_as_the_client_wrote_it(kind: type[Body], body: object, message: str) -> None:
    with pytest.raises(ParameterError) as refused:
        checked(body, kind)
    assert str(refused.value) == message and f"`{refused.value.parameter}`" == message.split()[0]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (ChatBody, chat(functions=None, modalities=None, messages=[{**USER, "audio": None, "function_call": None}])),
        (ResponsesBody, response(previous_response_id=None, conversation=None)),
        (MessagesBody, said([{"type": "text", "text": "a", "citations": None}])),
        (MessagesBody, chat(max_tokens=5, messages=[USER, {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "a", "signature": "b"},
            {"type": "redacted_thinking", "data": "c"}]}, USER])),
        (OllamaBody, chat(messages=[{"role": "user", "content": None, "images": None}], keep_alive=0.5)),
        (OllamaBody, chat(keep_alive="5m", template=None)),
    ],
)  # fmt: skip
def test_what_says_nothing_is_no_mistake(kind: type[Body], body: object) -> None:
    checked(body, kind)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("think", '`reasoning_effort: "none"`'), ("n_predict", "`max_tokens`"), ("max_new_tokens", "`max_tokens`")],
)
def test_a_parameter_of_another_server_is_refused_with_the_one_to_send(name: str, hint: str) -> None:
    with pytest.raises(ParameterError, match=f"`{name}` is not supported") as refused:
        checked(chat(**{name: 1}), ChatBody)
    assert hint in refused.value.hint


def test_a_request_without_a_model_is_told_where_to_find_one() -> None:
    with pytest.raises(ParameterError, match="`model` is missing") as refused:
        checked({"messages": [USER]}, ChatBody)
    assert refused.value.hint == "GET /v1/models lists them"
