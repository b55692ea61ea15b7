"""`edgeinfer serve` as a process: how it starts, and how it ends while it answers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edgeinfer.bench.serve.servers import free_port, is_healthy
from edgeinfer.errors import UsageError
from edgeinfer.serve.run import accept, bound

NUMBERS = {"type": "array", "items": {"type": "integer"}, "minItems": 100_000}
UPGRADE = (
    b"GET /v1/models/x HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
ENDLESS = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Count"}],
    "max_tokens": 1_000_000,
    "stream": True,
    "response_format": {"type": "json_schema", "json_schema": {"name": "numbers", "schema": NUMBERS}},
}


@contextmanager
def serving(home: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    command = (sys.executable, "-m", "edgeinfer", "serve", "demo", "--conversations", "1", "--port", str(port))
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as one:
        try:
            yield one
        finally:
            one.kill()


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_answers_in_words_and_then_the_server(tmp_path: Path, number: signal.Signals) -> None:
    port = free_port()
    with serving(tmp_path, port) as process:
        while not is_healthy(port):
            assert process.poll() is None
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port}/v1/chat/completions"
        with urllib.request.urlopen(
            urllib.request.Request(address, json.dumps(ENDLESS).encode()), timeout=60
        ) as answer:
            answer.readline()
            process.send_signal(number)
            events = answer.read().decode().split("\n\n")
        out, _ = process.communicate(timeout=60)
    last: Any = json.loads(events[-2].removeprefix("data: "))
    assert last["error"]["message"] == "the server is closing"
    assert process.returncode == 128 + number
    assert "Traceback" not in out


def test_what_is_no_request_is_not_logged(tmp_path: Path) -> None:
    port = free_port()
    with serving(tmp_path, port) as process:
        while not is_healthy(port):
            assert process.poll() is None
            time.sleep(0.1)
        for data in (b"\x16\x03\x01\x00\x00", UPGRADE):
            with socket.create_connection(("127.0.0.1", port), timeout=20) as stranger:
                stranger.sendall(data)
                assert b" 40" in stranger.recv(1000)
        process.terminate()
        out, _ = process.communicate(timeout=60)
    assert out.splitlines()[-1].startswith("  a page to chat on: http://127.0.0.1:")


def test_of_two_servers_that_start_at_once_the_second_says_why_it_ends() -> None:
    with bound("127.0.0.1", 0) as first, bound("127.0.0.1", first.getsockname()[1]) as second:
        accept(first)
        with pytest.raises(UsageError, match="cannot listen on 127"):
            accept(second)


def test_a_port_in_use_is_found_before_a_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, serving(tmp_path, taken.getsockname()[1]) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out.startswith("error: cannot listen on 127.0.0.1 port") and "hint: choose another with --port" in out
