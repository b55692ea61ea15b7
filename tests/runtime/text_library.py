"""The text part of the phone runtime, compiled without ExecuTorch and called through ctypes."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from edgeinfer.formats.chat_pieces import ChatPieces, chat_fields
from edgeinfer.types import Message, Prompt
from tests.runtime.built import COMPILER, SOURCES, without_executorch
from tests.runtime.sanitized import FLAGS

ROOT = Path(__file__).parents[2]
INTERFACE = Path(__file__).with_name("text_interface.cpp")
ERROR_BYTES = 4096

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


class Refused(Exception):
    """The library refused its input; `str()` is the cause."""

    def __init__(self, error: bytes) -> None:
        cause, _, self.hint = error.decode().partition("\n")
        super().__init__(cause)


def text_sources() -> list[Path]:
    return [*sorted((SOURCES / "text").glob("*.cpp")), SOURCES / "history.cpp"]


@cache
def library() -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(without_executorch(text_sources(), INTERFACE, *FLAGS, link=["-shared"])))
    loaded.text_tokenizer_open.restype = ctypes.c_void_p
    loaded.text_encode.restype = loaded.text_piece.restype = ctypes.c_size_t
    loaded.text_chat_open.restype = ctypes.c_void_p
    loaded.text_chat_render.restype = ctypes.c_int64
    loaded.text_chat_text.restype = ctypes.c_void_p
    loaded.text_chat_tokens.restype = loaded.text_chat_places.restype = ctypes.c_size_t
    loaded.text_chat_prompt.restype = ctypes.c_size_t
    return loaded


def check_on_phone(folder: Path) -> None:
    """Has the phone check a bundle, including digests. Raises Refused."""
    error = ctypes.create_string_buffer(ERROR_BYTES)
    if library().text_check_bundle(str(folder).encode(), 1, error):
        raise Refused(error.value)


class PhoneTokenizer:
    """A tokenizer file. Raises Refused if it cannot be used. `encode` and `piece` follow protocols.Tokenizer."""

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


class PhoneChat:
    """Conversations written by the phone. Raises Refused for those it does not accept."""

    def __init__(self, tokenizer: PhoneTokenizer, chat: ChatPieces) -> None:
        self._tokenizer = tokenizer
        error = ctypes.create_string_buffer(ERROR_BYTES)
        self._handle = library().text_chat_open(
            ctypes.c_void_p(tokenizer.handle), json.dumps(chat_fields(chat)).encode(), error
        )
        if not self._handle:
            raise Refused(error.value)

    def __del__(self) -> None:
        library().text_chat_close(ctypes.c_void_p(self._handle))

    def text(self, messages: Sequence[Message], *, thinking: bool = True, now: float = 0.0) -> str:
        """Sets the conversation for `tokens` and `places`."""
        error = ctypes.create_string_buffer(ERROR_BYTES)
        handle = ctypes.c_void_p(self._handle)
        n = library().text_chat_render(handle, as_json(messages), thinking, ctypes.c_int64(int(now)), error)
        if n < 0:
            raise Refused(error.value)
        return ctypes.string_at(library().text_chat_text(handle), n).decode()

    def tokens(self) -> list[int]:
        ids = (ctypes.c_int32 * 100_000)()
        n = library().text_chat_tokens(ctypes.c_void_p(self._handle), ids, ctypes.c_size_t(len(ids)))
        return list(ids[:n])

    def places(self) -> list[int]:
        """Byte offsets: end of the first n messages (-1: not framed), start of the first question, end of all."""
        places = (ctypes.c_int64 * 1000)()
        n = library().text_chat_places(ctypes.c_void_p(self._handle), places, ctypes.c_size_t(len(places)))
        return list(places[:n])

    def prompt(self, messages: Sequence[Message], *, thinking: bool = True, now: float = 0.0) -> Prompt:
        """The prompt of the next turn of one conversation."""
        out = (ctypes.c_int64 * 100_000)()
        size = ctypes.c_size_t(len(out))
        n = library().text_chat_prompt(
            ctypes.c_void_p(self._handle), as_json(messages), thinking, ctypes.c_int64(int(now)), out, size
        )
        *found, n_starts, n_system = out[:n]
        at = len(found) - n_starts
        return Prompt(found[:at], n_system, tuple(found[at:]))

    def forget(self) -> None:
        """Starts another conversation."""
        library().text_chat_forget(ctypes.c_void_p(self._handle))

    def answered(self, tokens: Sequence[int], text: str) -> None:
        ids = (ctypes.c_int32 * len(tokens))(*tokens)
        size = ctypes.c_size_t(len(tokens))
        library().text_chat_answered(ctypes.c_void_p(self._handle), ids, size, text.encode())


def as_json(messages: Sequence[Message]) -> bytes:
    return json.dumps([{"role": message.role, "content": message.content} for message in messages]).encode()
