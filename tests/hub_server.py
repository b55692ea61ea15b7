"""A small local hub for the requests that huggingface_hub makes, with failures on request."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeRepo:
    files: dict[str, bytes]
    license: str = "apache-2.0"
    gated: bool = False


@dataclass
class Faults:
    """The failures to cause from now on; a test sets them while the server runs."""

    cut_after: list[int] = field(
        default_factory=list
    )  # for each next download: bytes sent before the connection is cut
    wrong_bytes: bool = False  # right length, wrong content
    extra_bytes: int = 0
    missing_bytes: int = 0  # shorter than announced, with a clean end
    etag: str = ""  # sent in place of the digest
    status: int = 0
    ignore_range: bool = False


class Hub:
    def __init__(self, repos: dict[str, FakeRepo]) -> None:
        self.repos, self.faults = repos, Faults()
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextmanager
    def running(self) -> Iterator[Hub]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def downloads(self) -> list[str]:
        """The ranges of the file bodies asked for so far, in order."""
        return [wanted for method, path, wanted in self.requests if method == "GET" and "/resolve/" in path]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = unquote(self.path.split("?")[0])
        self.hub.requests.append((self.command, path, self.headers.get("Range", "")))
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3], body)
        else:
            self._error(404, "EntryNotFound")

    def _repo(self, name: str, revision: str) -> FakeRepo | None:
        """The repository, or None after an error was sent."""
        repo = self.hub.repos.get(name)
        if self.hub.faults.status:
            self._error(self.hub.faults.status, "")
        elif repo is None:
            self._error(404, "RepoNotFound")
        elif revision not in ("main", COMMIT):
            self._error(404, "RevisionNotFound")
        else:
            return repo
        return None

    def _info(self, name: str, revision: str) -> None:
        if not (repo := self._repo(name, revision)):
            return
        siblings = [
            {"rfilename": file, "size": len(content), "blobId": "0" * 40}
            | ({"lfs": {"size": len(content), "sha256": sha256(content), "pointerSize": 134}} if _is_lfs(file) else {})
            for file, content in repo.files.items()
        ]
        raw = json.dumps(
            {"id": name, "modelId": name, "sha": COMMIT, "gated": "manual" if repo.gated else False, "private": False}
            | {"tags": [], "downloads": 0, "likes": 0, "siblings": siblings, "cardData": {"license": repo.license}}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def _file(self, name: str, revision: str, file: str, body: bool) -> None:
        if not (repo := self._repo(name, revision)):
            return
        if repo.gated and self.headers.get("Authorization") != "Bearer good":
            self._error(403 if self.headers.get("Authorization") else 401, "GatedRepo")
            return
        if file not in repo.files:
            self._error(404, "EntryNotFound")
            return
        content, faults = repo.files[file], self.hub.faults
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
        etag, announced = faults.etag or (sha256(content) if _is_lfs(file) else git), len(content)
        if faults.wrong_bytes:
            content = b"\xff" + content[1:]
        content = content[: len(content) - faults.missing_bytes] + b"x" * faults.extra_bytes
        self._send(content, announced, etag, body)

    def _send(self, content: bytes, announced: int, etag: str, body: bool) -> None:
        faults = self.hub.faults
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and not faults.ignore_range:
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            if first >= len(content):
                self._error(416, "")
                return
            content = content[first : last + 1]
        length = announced if not body else len(content)
        self.send_response(206 if wanted and not faults.ignore_range else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(announced))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if body and faults.cut_after:
            self.wfile.write(content[: faults.cut_after.pop(0)])
            self.wfile.flush()
            self.close_connection = True
        elif body:
            self.wfile.write(content)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if code == "EntryNotFound":
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _is_lfs(file: str) -> bool:
    return file.endswith((".gguf", ".safetensors", ".bin"))
