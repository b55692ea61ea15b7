"""The text part of the phone runtime, compiled without ExecuTorch and driven by ctypes."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "mobile/runtime"
INTERFACE = Path(__file__).with_name("text_interface.cpp")
KEPT = ROOT / ".pytest_cache/runtime"
COMPILER = shutil.which("c++")
FLAGS = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror")
ERROR_BYTES = 4096

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


class Refused(Exception):
    """What the library says no to: `str()` is the cause."""

    def __init__(self, error: bytes) -> None:
        cause, _, self.hint = error.decode().partition("\n")
        super().__init__(cause)


def text_sources() -> list[Path]:
    return sorted((SOURCES / "text").glob("*.cpp"))


def digest_of_sources() -> str:
    state = hashlib.sha256(" ".join(FLAGS).encode())
    for path in [*sorted((SOURCES / "text").iterdir()), SOURCES / "error.h", INTERFACE]:
        state.update(path.read_bytes())
    return state.hexdigest()[:16]


@cache
def library() -> ctypes.CDLL:
    """Compiled once for each state of its sources."""
    assert COMPILER is not None
    out = KEPT / f"text-{digest_of_sources()}.so"
    if not out.exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        made = out.with_suffix(".part")
        sources = [str(path) for path in (*text_sources(), INTERFACE)]
        subprocess.run([COMPILER, *FLAGS, "-fPIC", "-shared", *sources, "-o", str(made)], check=True)
        made.replace(out)
    loaded = ctypes.CDLL(str(out))
    loaded.text_tokenizer_open.restype = ctypes.c_void_p
    loaded.text_encode.restype = loaded.text_piece.restype = ctypes.c_size_t
    return loaded


class PhoneTokenizer:
    """Raises Refused for a file that is not read. `encode` and `piece` are those of protocols.Tokenizer."""

    def __init__(self, path: Path) -> None:
        error = ctypes.create_string_buffer(ERROR_BYTES)
        self.handle = library().text_tokenizer_open(str(path).encode(), error)
        if not self.handle:
            raise Refused(error.value)

    def __del__(self) -> None:
        library().text_tokenizer_close(ctypes.c_void_p(self.handle))

    def encode(self, text: str, *, special: bool) -> list[int]:
        data = text.encode()
        ids = (ctypes.c_int32 * (4 * len(data) + 16))()
        n = library().text_encode(
            ctypes.c_void_p(self.handle), data, ctypes.c_size_t(len(data)), special, ids, ctypes.c_size_t(len(ids))
        )
        return list(ids[:n])

    def piece(self, token: int) -> bytes:
        out = ctypes.create_string_buffer(1024)
        n = library().text_piece(ctypes.c_void_p(self.handle), token, out, ctypes.c_size_t(len(out)))
        return out.raw[:n]
