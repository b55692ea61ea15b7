"""A local package index (the simple API of PEP 503) with one project, whose files a test chooses."""

from __future__ import annotations

import base64
import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PROJECT, VERSION = "tiny-model", "1.0"
WHEEL = "tiny_model-1.0-py3-none-any.whl"


def wheel(members: Mapping[str, bytes]) -> bytes:
    """A wheel that pip accepts, with these members beside its own."""
    info = f"tiny_model-{VERSION}.dist-info"
    files = dict(members) | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {PROJECT}\nVersion: {VERSION}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},sha256={_digest(raw)},{len(raw)}\n" for name, raw in files.items())
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, raw in files.items():
            archive.writestr(name, raw)
        archive.writestr(f"{info}/RECORD", f"{record}{info}/RECORD,,\n")
    return out.getvalue()


def _digest(raw: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).rstrip(b"=").decode()


class Index:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)  # by the names on the project's page
        self.cut_after = 0  # for a file: bytes sent before the connection is cut
        self.stalled = threading.Event()  # set once a cut download hangs instead of ending
        self.hang = False
        self.downloads: list[str] = []
        handler = type("Handler", (_Handler,), {"index": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/simple"

    @contextmanager
    def running(self) -> Iterator[Index]:
        thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.hang = False
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def settings(self) -> dict[str, str]:
        """Settings of pip for this index only, whatever the machine's are."""
        return {
            "PIP_INDEX_URL": self.url,
            "PIP_CONFIG_FILE": "/dev/null",
            "PIP_EXTRA_INDEX_URL": "",
            "PIP_FIND_LINKS": "",
        }


class _Handler(BaseHTTPRequestHandler):
    index: Index

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        if self.path == f"/simple/{PROJECT}/":
            links = "".join(f'<a href="/files/{file}">{file}</a>' for file in self.index.files)
            self._send(200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), "text/html")
        elif self.path.startswith("/files/") and name in self.index.files:
            self.index.downloads.append(name)
            self._send(200, self.index.files[name], "application/octet-stream")
        else:
            self._send(404, b"", "text/html")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.index.cut_after and kind != "text/html":
            self.wfile.write(content[: self.index.cut_after])
            self.wfile.flush()
            while self.index.hang:
                self.index.stalled.set()
                threading.Event().wait(0.05)
        else:
            self.wfile.write(content)
