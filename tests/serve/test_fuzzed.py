"""Requests that schemathesis makes up from the server's own description: none may meet a fault of the server."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer.plan import Request
from edgeinfer.serve.http.safety import Access
from tests.serve.conftest import Server, running
from tests.tiny_gguf import Tiny, write_tiny

N_EXAMPLES = os.environ.get("FUZZED_EXAMPLES", "2")  # of each kind, for each endpoint


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A tiny model: made-up requests ask for answers of thousands of tokens."""
    model = write_tiny(tmp_path / "demo.gguf", Tiny())
    request = Request(model=str(model), backend="gguf", conversations=4, context=512, sink=64, force=True)
    yield from running(Access("127.0.0.1"), replace(edgeinfer.choose(request), n_threads=1))


def test_no_request_meets_a_fault(own_server: Server, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{own_server.url}/openapi.json", "--no-color"),
        *("--checks", "not_a_server_error", "--max-examples", N_EXAMPLES, "--seed", "1"),
        *("--phases", "examples,fuzzing", "--request-timeout", "300", "--generation-database", "none"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=550, check=False, cwd=tmp_path)
    said = ran.stdout[-3000:] + ran.stderr[-1000:]
    assert ran.returncode == 0, said
