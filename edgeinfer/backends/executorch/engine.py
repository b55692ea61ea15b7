"""The C interface of mobile/runtime/engine/engine.h, by ctypes, with NumPy arrays and our errors."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import POINTER, byref, c_char, c_char_p, c_int, c_int32, c_int64, c_size_t, c_void_p
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from edgeinfer.backends.executorch.build import engine_library
from edgeinfer.errors import ArtifactError, EdgeInferError, EngineError, UsageError
from edgeinfer.formats.manifest import KV_TYPES
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy

Floats: TypeAlias = npt.NDArray[np.float32]

_ERRORS: dict[int, type[EdgeInferError]] = {2: UsageError, 4: ArtifactError, 70: EngineError}


_INFO = (
    "n_layers",
    "n_kv_heads",
    "head_dim",
    "hidden",
    "n_vocab",
    "limit",
    "exit_layer",
    "max_tokens",
    "max_rows",
    "n_threads",
    "draft_exit_layer",
    "draft_n_taps",
    "draft_n_ranked",
)


class _Error(ctypes.Structure):
    _fields_ = (("message", c_char * 512),)


class _Options(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("n_threads", c_int32), ("packed_cache_path", c_char_p), ("kv_type", c_int32))


class _Info(ctypes.Structure):
    _fields_ = tuple((name, c_int64) for name in _INFO)


class _Policy(ctypes.Structure):
    _fields_ = (("window", c_int64), ("sink", c_int64), ("block", c_int64), ("limit", c_int64))


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What a program states about itself, as ei_info in engine.h."""

    n_layers: int
    n_kv_heads: int
    head_dim: int
    hidden: int
    n_vocab: int
    limit: int
    exit_layer: int
    max_tokens: int
    max_rows: int
    n_threads: int
    draft_exit_layer: int
    draft_n_taps: int
    draft_n_ranked: int


class Program:
    """A loaded program. `packed_cache` is a file for XNNPACK's packed weights: the next load maps it.

    Raises UsageError for a K/V type that the engine does not keep.
    """

    def __init__(
        self, path: Path, *, n_threads: int = 0, packed_cache: Path | None = None, kv_type: KvType = "f32"
    ) -> None:
        if kv_type not in KV_TYPES:
            raise UsageError(f"ExecuTorch keeps K and V as {', '.join(KV_TYPES)}, not as {kv_type}")
        self._library = _library()
        handle = c_void_p()
        packed = str(packed_cache).encode() if packed_cache else None
        options = _Options(ctypes.sizeof(_Options), n_threads, packed, KV_TYPES.index(kv_type))
        self._call("ei_open", str(path).encode(), byref(options), byref(handle))
        self._handle: c_void_p | None = handle
        info = _Info()
        self._library.ei_describe(handle, byref(info))
        self.info = ProgramInfo(*(int(getattr(info, name)) for name in _INFO))

    def new_rings(self, policy: WindowPolicy) -> Rings:
        return Rings(self._library, self._new("ei_cache_new", policy), self.info)

    def new_taught_rings(self, policy: WindowPolicy) -> TaughtRings:
        return TaughtRings(self._library, self._new("ei_taught_new", policy), self.info)

    def close(self) -> None:
        if self._handle is not None:
            self._library.ei_close(self._handle)
            self._handle = None

    def _new(self, function: str, policy: WindowPolicy) -> c_void_p:
        if self._handle is None:
            raise EngineError("the model is closed")
        handle = c_void_p()
        fields = _Policy(policy.window, policy.sink, policy.block, policy.limit)
        self._call(function, self._handle, byref(fields), byref(handle))
        return handle

    def _call(self, function: str, *arguments: Any) -> None:
        _checked(self._library, function, *arguments)


class Rings:
    """K and V of one conversation, and the forwards over them. `start` is the position of the first token."""

    def __init__(self, library: ctypes.CDLL, handle: c_void_p, info: ProgramInfo) -> None:
        self._library = library
        self._handle: c_void_p | None = handle
        self._info = info
        self.n_bytes = int(library.ei_cache_bytes(handle))

    @property
    def is_open(self) -> bool:
        return self._handle is not None

    def forward(self, tokens: Sequence[int], start: int, n_rows: int) -> Floats:
        """All layers. Logits of the last `n_rows` tokens, [n_rows, V]."""
        logits = np.empty((n_rows, self._info.n_vocab), np.float32)
        ids = np.asarray(tokens, np.int64)
        self._call("ei_forward", _at(ids), len(ids), start, n_rows, _at(logits))
        return logits

    def forward_tapped(self, tokens: Sequence[int], start: int, n_rows: int) -> tuple[Floats, Floats]:
        """The same, and the tapped states [T, taps x hidden] of all tokens."""
        logits = np.empty((n_rows, self._info.n_vocab), np.float32)
        tapped = np.empty((len(tokens), self._info.draft_n_taps * self._info.hidden), np.float32)
        ids = np.asarray(tokens, np.int64)
        self._call("ei_forward_tapped", _at(ids), len(ids), start, n_rows, _at(logits), _at(tapped))
        return logits, tapped

    def draft(self, token: int, start: int) -> tuple[Floats, Floats]:
        """The early layers and the head for one token: logits [V], state [hidden]."""
        logits, state = np.empty(self._info.n_vocab, np.float32), np.empty(self._info.hidden, np.float32)
        self._call("ei_draft", token, start, _at(logits), _at(state))
        return logits, state

    def front(self, tokens: Sequence[int], start: int) -> Floats:
        """The early layers: states [T, hidden]."""
        states = np.empty((len(tokens), self._info.hidden), np.float32)
        ids = np.asarray(tokens, np.int64)
        self._call("ei_front", _at(ids), len(ids), start, _at(states))
        return states

    def verify(self, states: Floats, start: int, n_rows: int) -> Floats:
        """The late layers for `states` [T, hidden]. Logits of the last `n_rows`, [n_rows, V]."""
        logits = np.empty((n_rows, self._info.n_vocab), np.float32)
        states = np.ascontiguousarray(states)
        self._call("ei_verify", _at(states), len(states), start, n_rows, _at(logits))
        return logits

    def close(self) -> None:
        if self._handle is not None:
            self._library.ei_cache_free(self._handle)
            self._handle = None

    def _call(self, function: str, *arguments: Any) -> None:
        if self._handle is None:
            raise EngineError("the cache is closed")
        _checked(self._library, function, self._handle, *arguments)


class TaughtRings:
    """A taught draft on one conversation: K and V of its layer, and the methods that run it."""

    def __init__(self, library: ctypes.CDLL, handle: c_void_p, info: ProgramInfo) -> None:
        self._library = library
        self._handle: c_void_p | None = handle
        self._info = info

    def known(self, tapped: Floats) -> Floats:
        """[T, hidden] of tapped states [T, taps x hidden]."""
        known = np.empty((len(tapped), self._info.hidden), np.float32)
        tapped = np.ascontiguousarray(tapped)
        self._call("ei_taught_known", _at(tapped), len(tapped), _at(known))
        return known

    def inputs(self, tokens: Sequence[int], known: Floats) -> Floats:
        """The layer's inputs [T, hidden], for tokens and what is known [T, hidden] of the positions before them."""
        inputs = np.empty((len(tokens), self._info.hidden), np.float32)
        ids, known = np.asarray(tokens, np.int64), np.ascontiguousarray(known)
        self._call("ei_taught_input", _at(ids), _at(known), len(ids), _at(inputs))
        return inputs

    def layer(self, inputs: Floats, start: int, first: int) -> tuple[Floats, Floats]:
        """The layer for inputs [T, hidden]; of the last one, logits of the ranked tokens [n] and the state [hidden].

        No key lies before the position `first`.
        """
        logits, state = np.empty(self._info.draft_n_ranked, np.float32), np.empty(self._info.hidden, np.float32)
        inputs = np.ascontiguousarray(inputs)
        self._call("ei_taught_layer", _at(inputs), len(inputs), start, first, _at(logits), _at(state))
        return logits, state

    def close(self) -> None:
        if self._handle is not None:
            self._library.ei_taught_free(self._handle)
            self._handle = None

    def _call(self, function: str, *arguments: Any) -> None:
        if self._handle is None:
            raise EngineError("the cache is closed")
        _checked(self._library, function, self._handle, *arguments)


def _at(array: npt.NDArray[Any]) -> c_void_p:
    return c_void_p(array.ctypes.data)


def _checked(library: ctypes.CDLL, function: str, *arguments: Any) -> None:
    error = _Error()
    code = library[function](*arguments, byref(error))
    if code:
        raise _ERRORS.get(code, EngineError)(error.message.decode(errors="replace"))


@cache
def _library() -> ctypes.CDLL:
    """The engine, compiled on first use."""
    path = engine_library()
    try:
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise EngineError(f"the compiled engine does not load: {error}", hint=f"delete {path.parent}") from error
    signatures: dict[str, tuple[Any, ...]] = {
        "ei_open": (c_char_p, POINTER(_Options), POINTER(c_void_p), POINTER(_Error)),
        "ei_cache_new": (c_void_p, POINTER(_Policy), POINTER(c_void_p), POINTER(_Error)),
        "ei_forward": (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, POINTER(_Error)),
        "ei_forward_tapped": (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p, POINTER(_Error)),
        "ei_draft": (c_void_p, c_int64, c_int64, c_void_p, c_void_p, POINTER(_Error)),
        "ei_front": (c_void_p, c_void_p, c_int64, c_int64, c_void_p, POINTER(_Error)),
        "ei_verify": (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, POINTER(_Error)),
        "ei_taught_new": (c_void_p, POINTER(_Policy), POINTER(c_void_p), POINTER(_Error)),
        "ei_taught_known": (c_void_p, c_void_p, c_int64, c_void_p, POINTER(_Error)),
        "ei_taught_input": (c_void_p, c_void_p, c_void_p, c_int64, c_void_p, POINTER(_Error)),
        "ei_taught_layer": (c_void_p, c_void_p, c_int64, c_int64, c_int64, c_void_p, c_void_p, POINTER(_Error)),
    }
    for name, arguments in signatures.items():
        library[name].argtypes = arguments
        library[name].restype = c_int
    for name, nothing in {
        "ei_describe": (c_void_p, POINTER(_Info)),
        "ei_close": (c_void_p,),
        "ei_cache_free": (c_void_p,),
        "ei_taught_free": (c_void_p,),
    }.items():
        library[name].argtypes = nothing
        library[name].restype = None
    library.ei_cache_bytes.argtypes = (c_void_p,)
    library.ei_cache_bytes.restype = c_int64
    return library
