"""What people complain about in other servers. `COMPLAINTS` names the tests of each; those that stand nowhere else are
here."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import edgeinfer
from edgeinfer.errors import EngineError
from edgeinfer.plan import Request
from edgeinfer.serve.engine import scheduler as scheduler_module
from edgeinfer.serve.http import connection, streams
from edgeinfer.serve.http.safety import Access
from tests.serve.conftest import Server, running
from tests.serve.test_openai_chat import LONG, endless

COMPLAINTS = {
    "a conversation is continued with the contents of another": (
        "test_tokens_are_compared_as_well_as_digests",
        "test_a_block_is_found_only_after_its_prefix",
        "test_another_file_of_weights_finds_nothing",
    ),
    "a new prompt stops the chats that run": (
        "test_beside_a_long_prompt_others_get_a_row_in_every_step",
        "test_short_prompts_go_first_but_do_not_starve_a_long_one",
    ),
    "one conversation without memory fails all": (
        "test_conversations_that_all_pass_their_windows_fail_nobody",
        "test_a_thousand_conversations_over_four_slots_end_in_bounded_order",
    ),
    "more conversations divide or multiply the context": (
        "test_the_window_that_was_asked_for_is_that_of_each_conversation",
    ),
    "the same seed gives other tokens beside others": (
        "test_a_request_has_the_same_answer_alone_and_beside_three_others",
        "test_json_is_the_same_alone_and_beside_others",
        "test_known_drafts_beside_others_change_no_token",
    ),
    "requests push each other's prompts out of the cache": (
        "test_a_chat_finds_its_own_conversation_and_a_title_request_leaves_it_alone",
        "test_a_request_for_a_title_does_not_evict_the_chat",
        "test_a_block_used_once_does_not_evict_one_used_again",
        "test_a_cache_that_is_too_small_is_reported_once",
    ),
    "the engine is dead, and the server says that it is healthy": (
        "test_an_engine_that_hangs_is_unhealthy",
        "test_the_watchdog_finds_a_step_that_does_not_end",
        "test_an_engine_failure_ends_one_answer_with_a_status",
    ),
    "a client that leaves is answered on, or ends the answer of another": (
        "test_a_client_that_leaves_ends_only_its_answer",
        "test_a_client_that_leaves_the_queue_or_a_prompt_frees_its_place",
        "test_an_answer_can_be_canceled_while_waiting_prefilling_or_writing",
    ),
    "health waits for a prompt that is read": ("test_health_answers_while_a_long_prompt_is_read",),
    "parameters are dropped, and forms not kept to": (
        "test_unsupported_parameters_are_refused_by_name",
        "test_an_unsupported_schema_is_refused",
        "test_an_invalid_body_is_refused",
        "test_tools_that_do_not_fit_are_refused",
    ),
}


@pytest.mark.parametrize("tests", COMPLAINTS.values(), ids=COMPLAINTS)
def test_every_complaint_has_its_tests(tests: tuple[str, ...]) -> None:
    here = "\n".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in tests if f"def {name}(" not in here] == []


def test_the_window_that_was_asked_for_is_that_of_each_conversation() -> None:
    one, four = (edgeinfer.choose(Request(model="demo", conversations=n, context=1024)) for n in (1, 4))
    assert one.window == four.window
    assert four.estimate.kv_bytes == 4 * one.estimate.kv_bytes


def test_conversations_that_all_pass_their_windows_fail_nobody() -> None:
    plan = edgeinfer.choose(Request(model="demo", conversations=3, context=320, sink=64))
    for server in running(Access("127.0.0.1"), plan):
        ask = partial(server.chat, temperature=0, max_tokens=400, logit_bias=endless(server))
        with ThreadPoolExecutor(3) as pool:
            replies = [reply.json for reply in pool.map(ask, ("Hi", LONG, "Who are you?"))]
        assert [reply["usage"]["completion_tokens"] for reply in replies] == [400] * 3
        assert all(reply["edgeinfer"]["evicted"] > 0 for reply in replies)
        counts = server.served.scheduler.counts
        assert (counts.finished, counts.failed, counts.refused) == (3, 0, 0)


def test_tools_that_do_not_fit_are_refused(server: Server) -> None:
    tools = [
        {"type": "function", "function": {"name": f"tool_{n}", "description": "word " * 100, "parameters": {}}}
        for n in range(40)
    ]
    reply = server.chat(tools=tools)
    assert reply.status == 400 and "the window keeps 512" in reply.json["error"]["message"]


def post(server: Server, body: dict[str, object]) -> socket.socket:
    """A connection that has requested an answer and read nothing."""
    data = json.dumps({"model": "demo", "messages": [{"role": "user", "content": "Hi"}], **body}).encode()
    opened = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n\r\n"
    opened.sendall(head.encode() + data)
    return opened


def wait(server: Server, n_running: int) -> None:
    for _ in range(500):
        if server.served.scheduler.n_running == n_running:
            return
        time.sleep(0.01)
    raise AssertionError(f"{server.served.scheduler.n_running} answers run, not {n_running}")


def test_health_answers_while_a_long_prompt_is_read(server: Server) -> None:
    asked = threading.Thread(target=lambda: server.chat(LONG * 60, max_tokens=1))
    asked.start()
    slowest = 0.0
    while asked.is_alive():
        began = time.perf_counter()
        assert server.ask("/health").status == 200
        slowest = max(slowest, time.perf_counter() - began)
    asked.join()
    assert slowest < 5  # no speed: only that it does not wait for the end of the prompt


def test_a_full_server_refuses_with_a_retry_time_and_serves_the_others(server: Server) -> None:
    server.until_idle()
    forever = {"max_tokens": 100_000, "logit_bias": endless(server)}
    most = server.served.scheduler.n_slots * 5
    held = [post(server, forever) for _ in range(most)]
    for _ in range(500):
        if server.served.scheduler.n_running + server.served.scheduler.n_waiting == most:
            break
        time.sleep(0.01)
    reply = server.chat()
    assert reply.status == 429 and int(reply.headers["retry-after"]) >= 1
    assert reply.json["error"]["type"] == "rate_limit_error"
    anthropic = {"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
    assert server.ask("/v1/messages", anthropic).json["error"]["type"] == "rate_limit_error"
    for one in held:
        one.close()
    server.until_idle()
    assert server.chat().status == 200


def test_a_client_that_leaves_the_queue_or_a_prompt_frees_its_place(server: Server) -> None:
    server.until_idle()
    forever = {"max_tokens": 100_000, "logit_bias": endless(server)}
    held = [post(server, forever) for _ in range(server.served.scheduler.n_slots + 2)]
    for _ in range(500):
        if server.served.scheduler.n_waiting == 2:
            break
        time.sleep(0.01)
    for one in held[-2:]:
        one.close()
    for _ in range(500):
        if server.served.scheduler.n_waiting == 0:
            break
        time.sleep(0.01)
    assert (server.served.scheduler.n_waiting, server.served.scheduler.n_running) == (0, 4)
    for one in held:
        one.close()
    server.until_idle()


def test_a_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "SLOW_READER_S", 0.05)
    sent: list[Any] = []

    class Held:
        canceled = False

        def cancel(self) -> None:
            self.canceled = True

    async def body() -> Any:
        for number in range(100):
            yield b"%d" % number

    async def send(message: Any) -> None:
        sent.append(message)
        if len(sent) == 4:
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    held: Any = Held()
    asyncio.run(streams.AnswerResponse(held, body())({}, receive, send))
    assert held.canceled and [one.get("body") for one in sent] == [None, b"0", b"1", b"2"]


def test_unfinished_headers_time_out(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "HEADERS_S", 0.2)
    for head in (b"", b"GET /health HTTP/1.1\r\nHost: local"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as slow:
            slow.sendall(head)
            assert slow.recv(100) == b""


def test_an_engine_that_hangs_is_unhealthy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    held = post(server, {"max_tokens": 100_000, "logit_bias": endless(server)})
    wait(server, 1)
    monkeypatch.setattr(scheduler_module, "STALLED_S", -1.0)
    reply = server.ask("/health")
    assert reply.status == 503 and "no step of the engine has ended" in reply.json["error"]["message"]
    monkeypatch.undo()
    held.close()
    server.until_idle()
    assert server.ask("/health").status == 200


def test_an_engine_failure_ends_one_answer_with_a_status(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    scheduler = server.served.scheduler
    engine = scheduler._engine
    true = engine.run

    def gives_up(asks: Any) -> Any:
        if any(len(ask.tokens) > 1 for ask in asks):
            raise EngineError("the engine gave up")
        return true(asks)

    beside = post(server, {"max_tokens": 300, "logit_bias": endless(server)})
    wait(server, 1)
    monkeypatch.setattr(engine, "run", gives_up)
    whole, streamed = server.chat(LONG), server.chat(LONG, stream=True)
    monkeypatch.undo()
    assert whole.status == 500 and "the engine gave up" in whole.json["error"]["message"]
    assert streamed.events[-1]["error"]["message"] == "the engine gave up"
    received = b""
    while b"\r\n0\r\n" not in received and b'"finish_reason":"length"' not in received:
        part = beside.recv(65536)
        assert part, received
        received += part
    beside.close()
    assert server.chat(LONG).status == 200


def test_no_request_reads_a_file_of_the_machine(server: Server, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hidden")
    for name in (str(secret), f"file://{secret}", "../../etc/passwd", "https://example.com/model"):
        assert server.chat(model=name).status == 404
        assert server.ask("/api/show", {"model": name}).status == 404
        part = {"type": "image_url", "image_url": {"url": name}}
        assert server.chat(messages=[{"role": "user", "content": [part]}]).status == 400


def test_a_listed_origin_may_send_requests() -> None:
    for server in running(Access("127.0.0.1", "a-token-of-this-test", origins=frozenset({"http://localhost:3000"}))):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as browser:
            browser.sendall(
                b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost:3000\r\n"
                b"Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization\r\n\r\n"
            )
            reply = browser.recv(4096).lower()
        assert reply.startswith(b"http/1.1 200") and b"access-control-allow-origin: http://localhost:3000" in reply


def test_the_description_names_every_parameter(server: Server) -> None:
    described = server.ask("/openapi.json").json
    chat = described["paths"]["/v1/chat/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    body = described["components"]["schemas"][chat["$ref"].rsplit("/", 1)[1]]
    assert {"messages", "tools", "response_format", "seed", "logit_bias"} <= set(body["properties"])
    assert body["additionalProperties"] is False


def test_a_server_that_is_stopped_tells_its_clients() -> None:
    server_run = running(Access("127.0.0.1"))
    server = next(server_run)
    kinds = {True: b"HTTP/1.1 200 OK", False: b"HTTP/1.1 503 Service Unavailable"}
    held = {
        streamed: post(server, {"max_tokens": 100_000, "stream": streamed, "logit_bias": endless(server)})
        for streamed in kinds
    }
    wait(server, 2)
    with pytest.raises(StopIteration):
        next(server_run)
    for streamed, status in kinds.items():
        received = b""
        while part := held[streamed].recv(65536):
            received += part
        held[streamed].close()
        assert received.startswith(status) and b"the server is closing" in received
