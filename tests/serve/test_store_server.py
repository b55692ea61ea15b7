"""The prefix cache in a server of the demo model, over HTTP."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edgeinfer
from edgeinfer.bench.serve.servers import free_port
from edgeinfer.bench.serve.servers import running as serving
from edgeinfer.plan import Plan, Request
from edgeinfer.serve.http.safety import Access
from edgeinfer.serve.store import opening
from edgeinfer.serve.store.opening import StoreSize, prefixes_of
from tests.serve.conftest import Server, asked, running

SYSTEM = "You are the keeper of a lighthouse. " * 14


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def plan() -> Plan:
    return edgeinfer.choose(Request(model="demo", conversations=2, context=512, sink=256))


def started(plan: Plan, folder: Path, said: list[str], patch: pytest.MonkeyPatch) -> Iterator[Server]:
    patch.setattr(opening, "cache_folder", lambda: folder)
    return running(Access("127.0.0.1"), plan=plan, open_prefixes=prefixes_of(plan, StoreSize(), said.append))


def body(question: str, **more: object) -> dict[str, object]:
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
    return {"model": "demo", "messages": messages, "max_tokens": 24, "temperature": 0, "seed": 3, **more}


def ask(server: Server, question: str, **more: object) -> Any:
    return server.ask("/v1/chat/completions", body(question, **more)).json


def cached(answer: Any) -> int:
    n: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return n


def text(answer: Any) -> str:
    content: str = answer["choices"][0]["message"]["content"]
    return content


@pytest.mark.parametrize(
    "how",
    [{"temperature": 0}, {"temperature": 0.9}, {"temperature": 0.9, "response_format": {"type": "json_object"}}],
    ids=["greedy", "seeded", "json"],
)
def test_the_answer_after_a_restart_is_the_same_with_fewer_tokens_to_run(
    plan: Plan, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch, how: dict[str, object]
) -> None:
    questions = ["Who are you?", "What do you see?", "Tell me a story."]
    for server in running(Access("127.0.0.1"), plan=plan):
        alone = [text(ask(server, question, **how)) for question in questions]
    for run in range(2):
        for server in started(plan, tmp_path, said, monkeypatch):
            answers = [ask(server, question, **how) for question in questions]
            assert [text(answer) for answer in answers] == alone
            assert (cached(answers[0]) >= 64) == (run > 0) and cached(answers[2]) >= 64
            metrics = server.ask("/metrics").body.decode()
            (restored,) = re.findall(r"edgeinfer_prefix_restored_tokens_total.* (\d+)", metrics)
            assert int(restored) == (160 if run else 0)
    assert said == []


def test_another_file_of_weights_finds_nothing(
    plan: Plan, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(plan, artifact=replace(plan.artifact, sha256="sha256:" + 64 * "0"))
    for which in (plan, other):
        for server in started(which, tmp_path, said, monkeypatch):
            assert cached(ask(server, "Who are you?")) == 0


def test_a_request_for_a_title_does_not_evict_the_chat(
    plan: Plan, tmp_path: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chat: list[dict[str, str]] = []
    for server in started(plan, tmp_path, said, monkeypatch):
        for turn in range(3):
            chat.append({"role": "user", "content": f"Question {turn} about the sea: {SYSTEM[:160]}?"})
            body = {"model": "demo", "messages": chat, "max_tokens": 40, "temperature": 0}
            answer = server.ask("/v1/chat/completions", body).json
            if turn:
                assert cached(answer) > len(chat) * 8
            chat.append({"role": "assistant", "content": text(answer)})
            for title in range(3):
                prompt = f"{title + 1} words as a title for: {chat[0]['content']} {SYSTEM}"
                server.chat(prompt, max_tokens=8)


def test_a_new_process_finds_the_prompt_on_disk_and_says_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    answers = []
    for _ in range(2):
        port = free_port()
        size = ("--conversations", 2, "--context", 512, "--sink", 256)
        command = (sys.executable, "-m", "edgeinfer", "serve", "demo", *size, "--offline", "--port", port)
        with serving("edgeinfer", command, port):
            answers.append(asked(f"http://127.0.0.1:{port}/v1/chat/completions", body("Who are you?")).json)
    assert [cached(answer) >= 64 for answer in answers] == [False, True]
    assert text(answers[0]) == text(answers[1])
