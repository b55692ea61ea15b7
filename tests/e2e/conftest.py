"""The command line in a separate process, with an empty home folder and no network."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.tiny_gguf import Tiny, write_tiny

ROOT = Path(__file__).parents[2]
SLOW_MACHINE = "0.001"  # the NumPy reference is slow, and no test here is about speed


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


def environment(home: Path) -> dict[str, str]:
    """A minimal environment. The hub and the package index are addresses where no server listens."""
    return {
        "HOME": str(home),
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(ROOT),
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "OPENBLAS_NUM_THREADS": "1",
    }


def one_core() -> None:
    """Limits the process to one core: spinning engine threads are slow where tests share cores."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    def run(*args: str | bytes, stdin: bytes | None = None, timeout: float = 120, **env: str) -> Ran:
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-m", "edgeinfer", *args],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            env=environment(tmp_path) | env,
            cwd=tmp_path,
            timeout=timeout,
            preexec_fn=one_core,
            check=False,
        )
        assert b"Traceback" not in done.stderr
        return Ran(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    return run


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("model") / "tiny.gguf", Tiny())


@pytest.fixture
def on_tiny(tiny: Path) -> list[str]:
    """Flags for a model that needs no engine and gives the same answer on every machine."""
    return [
        *("--model", str(tiny), "--backend", "reference", "--min-speed", SLOW_MACHINE),
        *("--context", "512", "--sink", "64", "--temp", "0", "--max-tokens", "12", "--speculation", "off"),
    ]
