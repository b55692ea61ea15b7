"""A server on the demo model, in this process: four conversations of 1,024 tokens."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

import edgeinfer
from edgeinfer.plan import Plan, Request
from edgeinfer.serve.app import make_app
from edgeinfer.serve.http.safety import Access
from edgeinfer.serve.models import Models
from edgeinfer.serve.run import Listener, accept, bound, configured, listen
from edgeinfer.serve.served import ServedModel

NO_HEADERS: Mapping[str, str] = {}


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The data of the server-sent events, without [DONE]."""
        lines = [line[6:] for line in self.body.decode().splitlines() if line.startswith("data: ")]
        return [json.loads(line) for line in lines if line != "[DONE]"]


def asked(url: str, body: object = None, headers: Mapping[str, str] = NO_HEADERS, timeout_s: float = 60) -> Reply:
    """The reply to a POST of `body`, to a GET without one."""
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json", **headers})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return Reply(reply.status, dict(reply.headers), reply.read())
    except urllib.error.HTTPError as error:
        return Reply(error.code, dict(error.headers), error.read())


@dataclass
class Server:
    port: int
    served: ServedModel

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: object = None, **headers: str) -> Reply:
        return asked(self.url + path, body, {name.replace("_", "-"): value for name, value in headers.items()})

    def chat(self, text: str = "Hi", **more: object) -> Reply:
        messages = [{"role": "user", "content": text}]
        return self.ask("/v1/chat/completions", {"model": "demo", "messages": messages, "max_tokens": 20, **more})

    def until_idle(self) -> None:
        scheduler = self.served.scheduler
        for _ in range(1000):
            if not scheduler.n_running and not scheduler.n_waiting:
                return
            time.sleep(0.01)
        raise AssertionError("an answer still runs")


def running(access: Access, plan: Plan | None = None, template: str = "", **options: Any) -> Iterator[Server]:
    """`template` is that of `load`, `options` are those of ServedModel."""
    plan = plan or edgeinfer.choose(Request(model="demo", conversations=4, context=1024, sink=512))
    served = ServedModel(edgeinfer.load(plan, template=template), **options)
    try:
        with listening(Models([served]), access) as port:
            yield Server(port, served)
    finally:
        served.close()


@contextmanager
def listening(models: Models, access: Access) -> Iterator[int]:
    """A thread that answers; the port."""
    socket = bound("127.0.0.1", 0)
    accept(socket)
    server = Listener(configured(make_app(models, access)), models)
    thread = threading.Thread(target=listen, args=(server, socket), daemon=True)
    thread.start()
    try:
        yield socket.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    yield from running(Access("127.0.0.1"))
