"""The C interface of mobile/runtime/edgeinfer.h through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from ctypes import POINTER, byref, c_char, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint32, c_void_p
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgeinfer.types import Sampling

VERSION = 2


class Error(ctypes.Structure):
    _fields_ = (("cause", c_char * 512), ("hint", c_char * 256))


class Options(ctypes.Structure):
    _fields_ = (
        ("size", c_size_t),
        ("version", c_uint32),
        ("n_threads", c_int32),
        ("context", c_int64),
        ("sink", c_int64),
        ("n_sessions", c_int32),
        ("drafting", c_int32),
        ("cache_folder", c_char_p),
    )


class Info(ctypes.Structure):
    _fields_ = (
        ("size", c_size_t),
        ("version", c_uint32),
        ("name", c_char * 128),
        ("license", c_char * 64),
        *((name, c_int64) for name in ("n_vocab", "limit", "window", "sink", "exit_layer", "exact_rows", "n_threads")),
        ("draft", c_char * 16),
        ("note", c_char * 256),
    )


class Memory(ctypes.Structure):
    _fields_ = (
        ("size", c_size_t),
        ("version", c_uint32),
        *((f"{name}_bytes", c_int64) for name in ("file", "packed", "session", "workspace", "total", "dirty")),
    )


class AnswerOptions(ctypes.Structure):
    _fields_ = (
        ("size", c_size_t),
        ("version", c_uint32),
        ("temperature", c_double),
        ("top_k", c_int32),
        ("top_p", c_double),
        ("min_p", c_double),
        ("repeat_penalty", c_double),
        ("repeat_last_n", c_int32),
        ("presence_penalty", c_double),
        ("frequency_penalty", c_double),
        ("seed", c_int64),
        ("max_tokens", c_int32),
        ("thinking", c_int32),
        ("think_budget", c_int32),
        ("batch_ms", c_int32),
        ("stops", POINTER(c_char_p)),
        ("n_stops", c_size_t),
    )


class Stats(ctypes.Structure):
    _fields_ = (
        ("size", c_size_t),
        ("version", c_uint32),
        ("finish", c_int32),
        *(
            (name, c_int64)
            for name in (
                *("prompt", "reused", "prefilled", "reprefilled", "kept", "evicted", "reanchored"),
                *("emitted", "rounds", "drafted", "accepted"),
            )
        ),
        *((name, c_double) for name in ("prefill_s", "first_token_s", "decode_s")),
    )


class Piece(ctypes.Structure):
    _fields_ = (
        ("text", c_char_p),
        ("n_bytes", c_size_t),
        ("thinking", c_int32),
        ("tokens", POINTER(c_int32)),
        ("n_tokens", c_size_t),
    )


CALLBACK = ctypes.CFUNCTYPE(c_int32, POINTER(Piece), c_void_p)
AUTO, NEVER, LOOKUP, EARLY_EXIT, TAUGHT = range(5)
STOP, LENGTH, CANCELED = 1, 2, 3
USAGE, ARTIFACT, ENGINE = 2, 4, 70


class Refused(Exception):
    """What a call returned instead of EDGEINFER_OK."""

    def __init__(self, code: int, cause: str, hint: str) -> None:
        super().__init__(cause)
        self.code, self.cause, self.hint = code, cause, hint


@dataclass
class Said:
    tokens: list[int] = field(default_factory=list)
    text: str = ""
    thinking: str = ""
    n_pieces: int = 0
    stats: dict[str, float] = field(default_factory=dict)


class Library:
    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))
        signatures: dict[str, tuple[Any, ...]] = {
            "open": (c_char_p, c_void_p, POINTER(c_void_p), c_void_p),
            "describe": (c_void_p, c_void_p, c_void_p),
            "session_new": (c_void_p, c_char_p, POINTER(c_void_p), c_void_p),
            "chat": (c_void_p, c_char_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
            "rewind": (c_void_p, c_size_t, c_void_p),
            "estimate": (c_char_p, c_void_p, c_void_p, c_void_p),
            "generate": (c_void_p, c_void_p, c_size_t, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
        }
        for name, arguments in signatures.items():
            self.c[f"edgeinfer_{name}"].argtypes = arguments
        self.c.edgeinfer_n_messages.argtypes = (c_void_p,)
        self.c.edgeinfer_n_messages.restype = c_size_t
        for name in ("close", "session_free", "cancel", "trim_memory"):
            self.c[f"edgeinfer_{name}"].argtypes = (c_void_p,)
            self.c[f"edgeinfer_{name}"].restype = None

    def call(self, name: str, *arguments: Any) -> None:
        error = Error()
        code = self.c[f"edgeinfer_{name}"](*arguments, byref(error))
        if code:
            raise Refused(code, error.cause.decode(), error.hint.decode())

    def open(self, folder: Path, **options: Any) -> Model:
        """Plain decoding on one thread, unless `options` say otherwise."""
        handle = c_void_p()
        self.call("open", str(folder).encode(), byref(open_options(options)), byref(handle))
        return Model(self, handle)

    def estimate(self, folder: Path, **options: Any) -> Memory:
        memory = Memory(ctypes.sizeof(Memory), VERSION)
        self.call("estimate", str(folder).encode(), byref(open_options(options)), byref(memory))
        return memory


class Model:
    def __init__(self, library: Library, handle: c_void_p) -> None:
        self._library = library
        self.handle = handle

    def info(self) -> Info:
        info = Info(ctypes.sizeof(Info), VERSION)
        self._library.call("describe", self.handle, byref(info))
        return info

    def session(self, system: str | bytes | None = None) -> Session:
        handle = c_void_p()
        text = system.encode() if isinstance(system, str) else system
        self._library.call("session_new", self.handle, text, byref(handle))
        return Session(self._library, handle)

    def trim_memory(self) -> None:
        self._library.c.edgeinfer_trim_memory(self.handle)

    def close(self) -> None:
        self._library.c.edgeinfer_close(self.handle)

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Session:
    def __init__(self, library: Library, handle: c_void_p) -> None:
        self._library = library
        self.handle = handle

    def generate(self, prompt: Sequence[int], watch: Callable[[Said], bool] | None = None, **options: Any) -> Said:
        """`watch` gets the text so far after each piece, and returns whether to stop."""
        ids = (c_int32 * len(prompt))(*prompt)
        return self._answer("generate", (ids, len(prompt)), watch, options)

    def chat(self, text: str | bytes, watch: Callable[[Said], bool] | None = None, **options: Any) -> Said:
        data = text if isinstance(text, bytes) else text.encode()
        return self._answer("chat", (data,), watch, options)

    @property
    def n_messages(self) -> int:
        return int(self._library.c.edgeinfer_n_messages(self.handle))

    def rewind(self, n: int) -> None:
        self._library.call("rewind", self.handle, n)

    def cancel(self) -> None:
        self._library.c.edgeinfer_cancel(self.handle)

    def free(self) -> None:
        self._library.c.edgeinfer_session_free(self.handle)

    def _answer(
        self, name: str, what: tuple[Any, ...], watch: Callable[[Said], bool] | None, options: dict[str, Any]
    ) -> Said:
        said = Said()

        def take(piece: Any, _: Any) -> int:
            got = piece.contents
            text = ctypes.string_at(got.text, got.n_bytes).decode()
            said.tokens += got.tokens[: got.n_tokens]
            said.n_pieces += 1
            if got.thinking:
                said.thinking += text
            else:
                said.text += text
            return int(watch is not None and watch(said))

        stats = Stats(ctypes.sizeof(Stats), VERSION)
        callback = CALLBACK(take)
        self._library.call(name, self.handle, *what, byref(answer_options(options)), callback, None, byref(stats))
        said.stats = {field[0]: getattr(stats, field[0]) for field in Stats._fields_}
        return said


def open_options(options: dict[str, Any]) -> Options:
    usual = {"n_threads": 1, "sink": -1, "n_sessions": 1, "drafting": NEVER}
    return Options(ctypes.sizeof(Options), VERSION, **{**usual, **options})


def sampled_by(how: Sampling) -> dict[str, Any]:
    """The options of an answer that samples as Python's does."""
    names = ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "seed")
    return {name: getattr(how, name) for name in names}


def answer_options(options: dict[str, Any]) -> AnswerOptions:
    usual = {"temperature": 0.0, "top_p": 1.0, "repeat_penalty": 1.0, "repeat_last_n": 64, "max_tokens": 2048}
    given = {**usual, "thinking": 1, "think_budget": -1, **options}
    stops = [stop.encode() for stop in given.pop("stops", ())]
    return AnswerOptions(
        ctypes.sizeof(AnswerOptions), VERSION, stops=(c_char_p * len(stops))(*stops), n_stops=len(stops), **given
    )
