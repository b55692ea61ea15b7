"""The same request has the same tokens alone, after a hit of the prefix cache in memory or on disk, and after a hit
beside others that run, stop or fail: in words, in JSON and in calls of tools, on the demo model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import edgeinfer
from edgeinfer.bench.serve.servers import free_port
from edgeinfer.bench.serve.servers import running as serving
from edgeinfer.errors import EngineError
from edgeinfer.plan import Plan, Request
from edgeinfer.protocols import Ask, Row
from edgeinfer.serve.http.safety import Access
from edgeinfer.serve.store.opening import StoreSize, prefixes_of
from tests.serve.conftest import Reply, Server, asked, running
from tests.serve.test_complaints import post, wait
from tests.serve.test_constrained import CLOCK, PERSON, form
from tests.serve.test_openai_chat import endless

PATH = "/v1/chat/completions"
SYSTEM = "You are the keeper of a lighthouse, and you know the weather of each city. " * 5
TEMPLATE = """\
{% for message in messages %}<|im_start|>{{ message.role }}
{% for call in message.tool_calls %}{"name": "{{ call.function.name }}", "parameters": \
{{ call.function.arguments | tojson }}}{% endfor %}{{ message.content }}
{% if loop.first and tools %}Functions: {{ tools | tojson }}
To call one, answer {"name": its name, "parameters": dictionary of its arguments}.{% endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Tools as Llama 3 writes them: an answer that begins with a brace is a call, so a bias makes the demo call one."""
FORECAST = {
    "type": "function",
    "function": {
        "name": "forecast",
        "description": "The weather of a city in some days",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Athens", "Berlin", "Lisbon", "London", "Madrid", "Paris", "Rome"]},
                "days": {"type": "integer", "minimum": 0, "maximum": 99},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CALL = {
    "id": "call_1",
    "type": "function",
    "function": {"name": "forecast", "arguments": '{"city": "Paris", "days": 2}'},
}
RESULT = [
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_1", "content": "Sunny, 21 degrees"},
]
GREEDY, SEEDED = {"temperature": 0}, {"temperature": 0.9, "seed": 5}
JSON = {"response_format": form(PERSON)}
FORCED = {"tools": [FORECAST, CLOCK], "tool_choice": {"type": "function", "function": {"name": "forecast"}}}
AUTO = {"tools": [FORECAST, CLOCK], "tool_choice": "auto", "parallel_tool_calls": False}
KINDS: Mapping[str, Mapping[str, Any]] = {
    "greedy": GREEDY,
    "seeded": SEEDED,
    "json": {**JSON, **GREEDY},
    "json, seeded": {**JSON, **SEEDED},
    "forced call": {**FORCED, **GREEDY},
    "forced call, seeded": {**FORCED, **SEEDED},
    "own call": {**AUTO, **GREEDY},
    "own call, seeded": {**AUTO, **SEEDED},
    "result of a call": {**AUTO, **GREEDY},
    "result of a call, seeded": {**AUTO, **SEEDED},
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
Body = dict[str, Any]
Answer = tuple[object, ...]
NOTHING, A_PREFIX = range(16), range(96, 1024)  # cached tokens


def body(kind: str, question: str = "Weather in Paris?") -> Body:
    """No two kinds begin alike, so each has blocks of its own in the prefix cache."""
    messages = [{"role": "system", "content": f"{kind}. {SYSTEM}"}, {"role": "user", "content": question}]
    turns = RESULT if kind.startswith("result") else []
    asked_for = {"model": "demo", "max_tokens": 80, "logprobs": True, "top_logprobs": 1}
    return {**asked_for, **KINDS[kind], "messages": [*messages, *turns]}


def before(kind: str) -> Body:
    """A request that leaves the beginning of `body(kind)` in the prefix cache: another question, or the turn before."""
    first = body(kind, "Weather in Paris?" if kind.startswith("result") else "Who are you?")
    return {**first, "messages": first["messages"][:2], "max_tokens": 8}


def answer(reply: Reply, n_cached: range) -> Answer:
    """Text, calls, and the tokens with their log probabilities, which show a changed row before it changes a token."""
    assert reply.status == 200, reply.body
    assert reply.json["usage"]["prompt_tokens_details"]["cached_tokens"] in n_cached
    (choice,) = reply.json["choices"]
    calls = [one["function"] for one in choice["message"].get("tool_calls", ())]
    return choice["finish_reason"], choice["message"]["content"], calls, choice["logprobs"]["content"]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return edgeinfer.choose(Request(model="demo", conversations=4, context=1024, sink=512))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> str:
    file = tmp_path_factory.mktemp("template") / "tools.jinja"
    file.write_text(TEMPLATE)
    return str(file)


@pytest.fixture(scope="module")
def cold(plan: Plan, template: str) -> Iterator[Server]:
    """A server that keeps no prefixes."""
    yield from running(Access("127.0.0.1"), plan, template)


@pytest.fixture(scope="module")
def bodies(cold: Server) -> Mapping[str, Body]:
    """By kind."""
    (brace,) = cold.served.tokenizer.encode("{", special=False)
    led = {"logit_bias": {str(brace): 100}}
    return {kind: {**body(kind), **(led if kind.startswith("own call") else {})} for kind in KINDS}


@pytest.fixture(scope="module")
def alone(cold: Server, bodies: Mapping[str, Body]) -> Mapping[str, Answer]:
    return {kind: answer(cold.ask(PATH, one), NOTHING) for kind, one in bodies.items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where prefixes are kept on disk."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


def keeping(plan: Plan, template: str, size: StoreSize) -> Iterator[Server]:
    """A server with a prefix cache that knows how each kind begins."""
    said: list[str] = []
    opener = prefixes_of(plan, size, said.append)
    for server in running(Access("127.0.0.1"), plan, template, open_prefixes=opener):
        for kind in KINDS:
            assert server.ask(PATH, before(kind)).status == 200
        server.until_idle()
        yield server
    assert said == []


@pytest.fixture(scope="module")
def warm(plan: Plan, template: str) -> Iterator[Server]:
    yield from keeping(plan, template, StoreSize(disk_bytes=0))


def test_the_kinds_are_what_they_say(alone: Mapping[str, Answer]) -> None:
    finishes = {kind: finish for kind, (finish, *_) in alone.items()}
    calls = {kind for kind, finish in finishes.items() if finish == "tool_calls"}
    assert calls == {kind for kind in KINDS if "call" in kind and not kind.startswith("result")}
    assert all(finishes[kind] == "stop" for kind in KINDS if kind.startswith("json"))
    for kind in KINDS:
        assert kind.endswith("seeded") or alone[kind] != alone.get(f"{kind}, seeded")


@EVERY_KIND
def test_after_a_hit_in_memory(
    warm: Server, bodies: Mapping[str, Body], alone: Mapping[str, Answer], kind: str
) -> None:
    restored = warm.served.prefixes.figures.restored_tokens
    assert answer(warm.ask(PATH, bodies[kind]), A_PREFIX) == alone[kind]
    assert warm.served.prefixes.figures.restored_tokens - restored in A_PREFIX


@EVERY_KIND
def test_after_a_hit_beside_three_others(
    warm: Server, bodies: Mapping[str, Body], alone: Mapping[str, Answer], kind: str
) -> None:
    with three_others(warm):
        assert answer(warm.ask(PATH, bodies[kind]), A_PREFIX) == alone[kind]
        assert warm.served.scheduler.n_running == 3


@EVERY_KIND
@pytest.mark.parametrize("fate", ["stops", "fails"])
def test_after_a_hit_beside_three_of_which_one(
    warm: Server,
    bodies: Mapping[str, Body],
    alone: Mapping[str, Answer],
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    fate: str,
) -> None:
    """It leaves after the third step of all four. A step that fails for one is run again for each alone."""
    engine = warm.served.scheduler._engine
    true, n_shared = engine.run, 0
    with three_others(warm) as others:
        one, job = others[0].decoder, others[0].job

        def run(asks: Sequence[Ask]) -> Sequence[Sequence[Row]]:
            nonlocal n_shared
            n_shared += len(asks) == 4
            if n_shared == 3 and fate == "stops":
                job.cancel()
            if n_shared == 3 and fate == "fails" and one._step and any(ask is one._step.ask for ask in asks):
                raise EngineError("the engine gave up")
            return true(asks)

        monkeypatch.setattr(engine, "run", run)
        assert answer(warm.ask(PATH, bodies[kind]), A_PREFIX) == alone[kind]
        assert n_shared == 3 and warm.served.scheduler.n_running == 2


@pytest.fixture(scope="module")
def another_process(plan: Plan, template: str, folder: Path) -> Iterator[str]:
    """Its address. It finds on disk what a server of this process has kept."""
    for _ in keeping(plan, template, StoreSize()):
        pass
    port = free_port()
    size = ("--conversations", 4, "--context", 1024, "--sink", 512)
    command = (
        sys.executable,
        "-m",
        "edgeinfer",
        "serve",
        "demo",
        "--template",
        template,
        *size,
        "--offline",
        "--port",
        port,
    )
    with serving("edgeinfer", command, port):
        yield f"http://127.0.0.1:{port}"


@EVERY_KIND
def test_after_a_hit_from_disk_in_another_process(
    another_process: str, bodies: Mapping[str, Body], alone: Mapping[str, Answer], kind: str
) -> None:
    assert answer(asked(another_process + PATH, bodies[kind]), A_PREFIX) == alone[kind]


@contextmanager
def three_others(server: Server) -> Iterator[list[Any]]:
    """The slots of three answers that do not end before the block does."""
    server.until_idle()
    forever = {"max_tokens": 100_000, "logit_bias": endless(server)}
    others = [post(server, {**forever, "seed": seed, "temperature": 1}) for seed in range(3)]
    wait(server, 3)
    try:
        yield [slot for slot in server.served.scheduler._slots if slot.job is not None]
    finally:
        for one in others:
            one.close()
