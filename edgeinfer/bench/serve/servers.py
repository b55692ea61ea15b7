"""The two servers as separate processes, on the same file, with the same context and threads."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeinfer.bench.opened import path_of
from edgeinfer.errors import EngineError
from edgeinfer.plan.types import Plan
from edgeinfer.types import of_k_and_v

START_S: Final = 180.0
STOP_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Server:
    name: str
    port: int
    model: str  # as requests name it
    stops: tuple[int, ...] = ()  # tokens that end an answer: clients forbid them, so that answers have the asked length


@contextmanager
def ours(plan: Plan, stops: tuple[int, ...] = (), template: str = "") -> Iterator[Server]:
    """A server of `plan`, which names the threads."""
    port, window = free_port(), plan.window
    size = ("--context", window.slots, "--sink", window.sink, "--conversations", plan.n_conversations)
    how = ("--kv-type", plan.kv_type, "--threads", plan.n_threads, "--prefix-disk", 0, "--offline", "--port", port)
    words = ("--template", template) if template else ()
    command = (sys.executable, "-m", "edgeinfer", "serve", path_of(plan), *size, *how, *words)
    with running("edgeinfer", command, port, stops) as server:
        yield server


@contextmanager
def llama_server(binary: Path, plan: Plan, stops: tuple[int, ...] = (), template: str = "") -> Iterator[Server]:
    """The server's defaults, except slots, context, K/V types, flash attention and threads, which are made equal."""
    port, n = free_port(), plan.n_conversations
    k, v = of_k_and_v(plan.kv_type)
    size = ("--parallel", n, "--ctx-size", n * plan.window.slots, "--cache-type-k", k, "--cache-type-v", v)
    how = ("--flash-attn", "on", "--threads", plan.n_threads, "--host", "127.0.0.1", "--port", port)
    flag = "--chat-template" if template == "chatml" else "--chat-template-file"
    words = (flag, template) if template else ()
    with running("llama.cpp", (binary, "--model", path_of(plan), *size, *how, *words), port, stops) as server:
        yield server


@contextmanager
def running(name: str, command: Sequence[object], port: int, stops: tuple[int, ...] = ()) -> Iterator[Server]:
    """Raises EngineError, with its last words, when it does not answer `/health`."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + START_S
            while not is_healthy(port):
                if process.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise EngineError(f"{name} did not start: {log.read()[-500:].decode('utf-8', 'replace').strip()}")
                time.sleep(0.1)
            yield Server(name, port, str(get(port, "/v1/models")["data"][0]["id"]), stops)
        finally:
            process.terminate()
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def is_healthy(port: int) -> bool:
    try:
        get(port, "/health")
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return True


def get(port: int, path: str) -> Any:
    """The JSON at `path`. Raises ValueError for any status but 200."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        if response.status != 200:
            raise ValueError(f"status {response.status}")
        return json.loads(response.read())
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
