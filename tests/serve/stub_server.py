"""A server that gives the chat page scripted answers and records its requests."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from edgeinfer.serve.page import page_body, page_headers

FIGURES: dict[str, object] = {"tokens_per_s": 41.5, "first_token_s": 0.12, "reused": 7, "kept": 90, "evicted": 32}
FIGURES |= {"drafted": 9, "accepted": 6, "arms": ["lookup", "forced"], "exact": True}


def chunk(delta: Mapping[str, str], **more: object) -> str:
    return json.dumps({"choices": [{"index": 0, "delta": dict(delta)}], **more})


def said(*pieces: str) -> list[str]:
    usage = {"prompt_tokens": 12, "completion_tokens": len(pieces)}
    figures = [chunk({}, edgeinfer=FIGURES), json.dumps({"choices": [], "usage": usage}), "[DONE]"]
    return [*(chunk({"content": piece}) for piece in pieces), *figures]


@dataclass
class Script:
    """The answers to the next requests. Without events, an answer never ends."""

    events: Sequence[str] = ()
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pause_s: float = 0.0
    token: str = ""
    asked: list[dict[str, Any]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)  # the page closed the connection


@contextmanager
def stub_server(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.path == "/":
                self.whole(200, page_body(), page_headers())
            elif script.token and self.headers.get("Authorization") != f"Bearer {script.token}":
                self.whole(401, json.dumps({"error": {"message": "a token is needed"}}).encode(), {})
            else:
                models = {"data": [{"id": "demo"}, {"id": "<i>other</i>"}]}
                self.whole(200, json.dumps(models).encode(), {"Content-Type": "application/json"})

        def do_POST(self) -> None:
            script.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            if script.status != 200:
                body = json.dumps({"error": {"message": "no <b>place</b> is free"}}).encode()
                self.whole(script.status, body, script.headers)
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            try:
                for event in script.events or (
                    chunk({"content": f"word {n} "}, edgeinfer={"emitted": 100 * n}) for n in range(10_000)
                ):
                    self.wfile.write(f"data: {event}\n\n".encode())
                    self.wfile.flush()
                    time.sleep(script.pause_s)
            except OSError:
                script.left.set()

        def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
