"""mobile/runtime/decode compiled by itself, without ExecuTorch, and called by ctypes."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from ctypes import c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.errors import EngineError, UsageError
from edgeinfer.types import Sampling, Tokens

ROOT = Path(__file__).resolve().parents[2]
DECODE = ROOT / "mobile/runtime/decode"
CHECK = Path(__file__).with_name("decode_check.cpp")
COMPILER = shutil.which("c++")
FLAGS = ("-std=c++17", "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared")
_MASK = (1 << 64) - 1


def compiled(decode: Path, folder: Path) -> ctypes.CDLL:
    """The sources in `decode`, compiled into `folder`."""
    assert COMPILER is not None
    library = folder / "libdecode_check.so"
    sources = sorted(map(str, decode.glob("*.cpp")))
    include = [f"-I{decode}", f"-I{decode.parent}"]
    subprocess.run([COMPILER, *FLAGS, *include, *sources, str(CHECK), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


def at(array: npt.NDArray[Any]) -> c_void_p:
    return c_void_p(array.ctypes.data)


def of_doubles(library: ctypes.CDLL, name: str, x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    out = np.empty_like(x)
    library[name](c_int64(len(x)), at(x), at(out))
    return out


class CppSampler:
    """The C++ sampler with the interface of `edgeinfer.decode.sampler.Sampler`."""

    def __init__(self, library: ctypes.CDLL, how: Sampling) -> None:
        self._library = library
        self._message = ctypes.create_string_buffer(200)
        library.check_sampler.restype = c_void_p
        library.check_pick.restype = c_int64
        numbers = np.array(
            [
                how.temperature,
                how.top_p,
                how.min_p,
                how.repeat_penalty,
                how.presence_penalty,
                how.frequency_penalty,
            ]
        )
        tokens = np.array([token for token, _ in how.logit_bias], np.int32)
        biases = np.array([bias for _, bias in how.logit_bias], np.float64)
        self._handle = library.check_sampler(
            at(numbers),
            c_int64(how.top_k),
            c_int64(how.repeat_last_n),
            c_uint64(how.seed & _MASK),
            c_int64(len(tokens)),
            at(tokens),
            at(biases),
            self._message,
        )
        if not self._handle:
            raise UsageError(self._message.value.decode())

    def pick(self, row: npt.NDArray[np.float32], index: int, context: Tokens) -> int:
        tokens = np.array(context, np.int32)
        token = int(
            self._library.check_pick(
                c_void_p(self._handle),
                at(row),
                c_int64(len(row)),
                c_int64(index),
                at(tokens),
                c_int64(len(tokens)),
                self._message,
            )
        )
        if token < 0:
            raise EngineError(self._message.value.decode())
        return token

    def close(self) -> None:
        self._library.check_sampler_free(c_void_p(self._handle))
