"""What requests of every protocol may say, and what each answer says of itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import fields, replace
from typing import Any

import pytest

import edgeinfer
from edgeinfer.plan import Request
from edgeinfer.serve.engine.counts import Counts
from edgeinfer.serve.engine.slots import PrefixFigures
from edgeinfer.serve.http.safety import Access
from edgeinfer.serve.models import Models
from edgeinfer.serve.served import ServedModel
from tests.serve.conftest import Reply, Server, asked, listening

USER = {"role": "user", "content": "Name three colors."}
FIGURES = {
    *("reused", "kept", "evicted", "reanchored", "drafted", "accepted", "arms", "exact"),
    *("first_token_s", "tokens_per_s"),
}
ASKED: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {"messages": [USER], "max_tokens": 12, "temperature": 0},
    "/v1/completions": {"prompt": "The sea is", "max_tokens": 12, "temperature": 0},
    "/v1/responses": {"input": "Name three colors.", "max_output_tokens": 12, "temperature": 0},
    "/v1/messages": {"messages": [USER], "max_tokens": 12, "temperature": 0},
    "/api/chat": {"messages": [USER], "options": {"temperature": 0, "num_predict": 12}, "stream": False},
    "/api/generate": {
        "prompt": "Name three colors.",
        "options": {"temperature": 0, "num_predict": 12},
        "stream": False,
    },
}
OPENAI = {"user": "me", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "prompt_cache_key": "k"}
HARMLESS: Mapping[str, Mapping[str, Any]] = {
    "/v1/chat/completions": {**OPENAI, "safety_identifier": "s", "reasoning_effort": "high"},
    "/v1/completions": {"user": "me", "best_of": 1, "echo": False},
    "/v1/responses": {**OPENAI, "reasoning": {"effort": "low"}, "truncation": "disabled", "background": False},
    "/v1/messages": {"metadata": {"user_id": "me"}, "service_tier": "auto", "output_config": {"effort": "max"}},
    "/api/chat": {"keep_alive": "5m", "options": {"num_thread": 1, "num_gpu": 9, "use_mmap": False, "num_ctx": 512}},
    "/api/generate": {"keep_alive": -1, "options": {"num_batch": 1, "main_gpu": 0, "low_vram": True}},
}

OTHER = 'the "other" \\'  # files may have such names


def said(answer: Mapping[str, Any]) -> str:
    """The text of an answer, whatever its protocol."""
    if "choices" in answer:
        choice = answer["choices"][0]
        return str(choice["text"] if "text" in choice else choice["message"]["content"])
    if "output" in answer:
        return str(answer["output"][-1]["content"][0]["text"])
    if "content" in answer:
        return str(answer["content"][0]["text"])
    return str(answer["response"] if "response" in answer else answer["message"]["content"])


@pytest.mark.parametrize("path", ASKED)
def test_an_answer_says_what_became_of_its_conversation(server: Server, path: str) -> None:
    answer = server.ask(path, {"model": "demo", **ASKED[path]}).json
    assert set(answer["edgeinfer"]) == FIGURES and answer["edgeinfer"]["exact"] is True
    assert answer["edgeinfer"]["kept"] > 4 and said(answer)


@pytest.mark.parametrize("path", ASKED)
def test_parameters_that_are_harmless_change_nothing(server: Server, path: str) -> None:
    plain, more = ASKED[path], HARMLESS[path]
    options = {"options": {**plain["options"], **more["options"]}} if "options" in more else {}
    reply = server.ask(path, {"model": "demo", **plain, **more, **options})
    assert reply.status == 200, reply.body
    assert said(reply.json) == said(server.ask(path, {"model": "demo", **plain}).json)


def test_a_developer_is_the_system_and_parts_are_one_text(server: Server) -> None:
    def answer(*messages: object) -> Any:
        reply = server.chat(messages=list(messages), temperature=0).json
        return reply["usage"]["prompt_tokens"], reply["choices"]

    system = {"role": "system", "content": "You are brief."}
    parts = [{"type": "text", "text": "Name three "}, {"type": "text", "text": "colors."}]
    plain = answer(system, USER)
    assert plain == answer({**system, "role": "developer"}, {"role": "user", "content": parts})
    assert plain != answer(USER)


def test_a_fingerprint_names_file_engine_and_exactness(server: Server) -> None:
    digest = server.served.plan.artifact.sha256.removeprefix("sha256:")[:12]
    whole, (chunk, *_) = server.chat().json, server.chat(stream=True).events
    assert whole["system_fingerprint"] == chunk["system_fingerprint"]
    assert whole["system_fingerprint"].startswith(f"{digest} Q4_0 gguf") and whole["system_fingerprint"].endswith(
        "exact"
    )


@pytest.fixture
def two_models() -> Iterator[str]:
    """The address of a server of the demo under two names."""
    plan = edgeinfer.choose(Request(model="demo", conversations=2, context=512, sink=128))
    with ExitStack() as opened:
        served = []
        for name in ("demo", OTHER):
            named = replace(plan, model=replace(plan.model, name=name))
            served.append(ServedModel(edgeinfer.load(named), rest_after_s=0.05))
            opened.callback(served[-1].close)
        yield f"http://127.0.0.1:{opened.enter_context(listening(Models(served), Access('127.0.0.1')))}"


def test_two_models_answer_by_their_names_at_once(two_models: str) -> None:
    def ask(name: str) -> Reply:
        return asked(f"{two_models}/v1/chat/completions", {"model": name, **ASKED["/v1/chat/completions"]})

    assert [one["id"] for one in asked(f"{two_models}/v1/models").json["data"]] == ["demo", OTHER]
    with ThreadPoolExecutor(6) as clients:
        replies = list(clients.map(ask, ["demo", OTHER] * 3))
    assert [reply.json["model"] for reply in replies] == ["demo", OTHER] * 3
    assert len({said(reply.json) for reply in replies}) == 1
    assert f"`demo`, `{OTHER}`" in ask("nothing like it").json["error"]["message"]
    metrics = asked(f"{two_models}/metrics").body.decode().splitlines()
    for name in ("demo", r"the \"other\" \\"):
        assert f'edgeinfer_finished_total{{model="{name}"}} 3' in metrics
        figures = [line for line in metrics if f'{{model="{name}"}}' in line]
        assert len(figures) == len(fields(Counts)) + len(fields(PrefixFigures)) + 4
        assert any(line.startswith("edgeinfer_prefix_thrashed_tokens_total") for line in figures)
