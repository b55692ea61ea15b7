"""`/v1/chat/completions` over HTTP, on the demo model."""

from __future__ import annotations

import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.serve.conftest import Server

LONG = "Tell me a story about a lighthouse and a storm. "


def endless(server: Server) -> dict[str, float]:
    """A bias against every token that would end an answer."""
    return {str(token): -100.0 for token in server.served.tokenizer.stop_tokens}


def content(server: Server, text: str, **more: object) -> str:
    reply = server.chat(text, **more)
    assert reply.status == 200, reply.body
    said: str = reply.json["choices"][0]["message"]["content"]
    return said


@pytest.mark.parametrize("how", [{"temperature": 0}, {"temperature": 1, "seed": 5}], ids=["greedy", "seeded"])
def test_a_request_has_the_same_answer_alone_and_beside_three_others(server: Server, how: dict[str, object]) -> None:
    texts = [LONG, "Who are you?", LONG * 3, "List three colors."]
    alone = [content(server, text, max_tokens=60, **how) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda text: content(server, text, max_tokens=60, **how), texts))
    assert together == alone
    assert len(set(alone)) == 4 and all(alone)


def test_a_stream_has_the_text_of_the_whole_answer(server: Server) -> None:
    whole = server.chat(LONG, temperature=0).json
    reply = server.chat(LONG, temperature=0, stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, counted = reply.events
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    said = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert said == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"] == "length"
    assert counted["choices"] == []
    assert counted["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"] == 20
    assert reply.body.endswith(b"data: [DONE]\n\n")
    so_far = [chunk["edgeinfer"]["emitted"] for chunk in chunks[1:-1]]
    assert so_far == sorted(so_far) and so_far[-1] == 20
    without = server.chat(LONG, stream=True).events
    assert all(chunk["choices"] and "usage" not in chunk for chunk in without)
    assert not any("edgeinfer" in chunk for chunk in without[:-1])


def test_a_repeated_prompt_is_reused(server: Server) -> None:
    text = "A prompt of this test alone: " + LONG
    server.chat(text, temperature=0)
    again = server.chat(text, temperature=0).json
    n_prompt, n_cached = again["usage"]["prompt_tokens"], again["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert n_cached == n_prompt - 1
    assert again["edgeinfer"]["exact"] is True and again["edgeinfer"]["reused"] == n_cached


def test_a_client_that_leaves_ends_only_its_answer(server: Server) -> None:
    server.until_idle()
    canceled = server.served.scheduler.counts.canceled
    for stream in (True, False):
        body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 100_000}
        data = json.dumps({**body, "stream": stream, "logit_bias": endless(server)}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
            for _ in range(200):
                if server.served.scheduler.n_running:
                    break
                time.sleep(0.01)
            beside = content(server, "Who are you?", temperature=0)
        server.until_idle()
        assert content(server, "Who are you?", temperature=0) == beside
    assert server.served.scheduler.counts.canceled == canceled + 2


@pytest.mark.parametrize(
    ("change", "parameter", "said"),
    [
        ({"tool_chioce": "auto"}, "tool_chioce", "is not supported"),
        ({"messages": []}, "messages", "at least 1 item"),
        ({"messages": [{"role": "user", "content": "Hi", "weight": 1}]}, "messages[0].weight", "is not supported"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, "messages", "must end with a message of the user"),
        ({"temperature": 3}, "temperature", "less than or equal to 2"),
        ({"temperature": "warm"}, "temperature", "valid number"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"store": True}, "store", "it should be false"),
        ({"top_logprobs": 3}, "top_logprobs", "needs `logprobs: true`"),
        ({"logit_bias": {"999999": 1}}, "logit_bias", "ids are 0 to"),
        ({"frequency_penalty": 2.5}, "frequency_penalty", "less than or equal to 2"),
        ({"stop": ""}, "stop", "must not be empty"),
    ],
)
def test_unsupported_parameters_are_refused_by_name(
    server: Server, change: dict[str, object], parameter: str, said: str
) -> None:
    reply = server.chat(**change)  # type: ignore[arg-type]
    assert reply.status == 400
    error = reply.json["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"] == parameter and said in error["message"]


def test_a_prompt_that_is_too_long_is_refused_before_it_runs(server: Server) -> None:
    system = [{"role": "system", "content": "Be kind. " * 300}, {"role": "user", "content": "Hi"}]
    reply = server.chat(messages=system)
    assert reply.status == 400 and "--sink" in reply.json["error"]["message"]


def test_minus_one_token_is_no_limit(server: Server) -> None:
    """As in LM Studio's examples; and PowerShell begins a file with a byte order mark."""
    body = {"model": "demo", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0, "max_tokens": -1}
    reply = server.ask("/v1/chat/completions", b"\xef\xbb\xbf" + json.dumps(body).encode())
    assert reply.json["choices"] == server.chat("Hi", max_tokens=2048, temperature=0).json["choices"]


def test_a_message_without_content_is_refused(server: Server) -> None:
    reply = server.chat(messages=[{"role": "user"}])
    assert (reply.status, reply.json["error"]["param"]) == (400, "messages[0].content")


def test_another_model_is_not_found(server: Server) -> None:
    reply = server.chat(model="gpt-4o")
    assert reply.status == 404 and reply.json["error"]["code"] == "model_not_found"
    assert "`demo`" in reply.json["error"]["message"]


def test_several_answers_to_one_request_have_different_seeds(server: Server) -> None:
    three = server.chat(LONG, n=3, temperature=1, seed=7).json["choices"]
    single = [content(server, LONG, temperature=1, seed=seed) for seed in (7, 8, 9)]
    assert [choice["message"]["content"] for choice in three] == single
    assert [choice["index"] for choice in three] == [0, 1, 2]


def test_log_probabilities_are_those_of_the_model(server: Server) -> None:
    reply = server.chat(LONG, temperature=0, repeat_penalty=1, logprobs=True, top_logprobs=3).json
    choice, tokens = reply["choices"][0], reply["choices"][0]["logprobs"]["content"]
    assert len(tokens) == reply["usage"]["completion_tokens"]
    assert b"".join(bytes(token["bytes"]) for token in tokens).decode() == choice["message"]["content"]
    for token in tokens:
        assert token["logprob"] == token["top_logprobs"][0]["logprob"] <= 0  # greedy: the most likely one
        assert [one["logprob"] for one in token["top_logprobs"]] == sorted(
            (one["logprob"] for one in token["top_logprobs"]), reverse=True
        )


def test_a_bias_and_both_penalties_act_on_the_tokens(server: Server) -> None:
    plain = server.chat(LONG, temperature=0, repeat_penalty=1, logprobs=True, max_tokens=30).json
    first = plain["choices"][0]["logprobs"]["content"][0]["bytes"]
    token = next(
        at for at in range(server.served.tokenizer.n_vocab) if server.served.tokenizer.piece(at) == bytes(first)
    )
    biased = server.chat(LONG, temperature=0, repeat_penalty=1, logit_bias={str(token): -100}, logprobs=True).json
    assert biased["choices"][0]["logprobs"]["content"][0]["bytes"] != first
    for penalty in ("presence_penalty", "frequency_penalty"):
        less = content(server, LONG, temperature=0, repeat_penalty=1, max_tokens=100, **{penalty: 2.0})
        assert distinct(less) > distinct(content(server, LONG, temperature=0, repeat_penalty=1, max_tokens=100))


def distinct(text: str) -> float:
    words = text.split()
    return len(set(words)) / len(words)
