"""mobile/runtime/decode, compiled without ExecuTorch and called through ctypes."""

from __future__ import annotations

import ctypes
import shutil
from ctypes import c_double, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeinfer.decode.policy.arms import NONE, Arm, Outcome
from edgeinfer.decode.policy.costs import RowCosts
from edgeinfer.errors import EngineError, UsageError
from edgeinfer.types import Sampling, Tokens
from tests.runtime.built import without_executorch
from tests.runtime.sanitized import FLAGS

ROOT = Path(__file__).resolve().parents[2]
DECODE = ROOT / "mobile/runtime/decode"
CHECK = Path(__file__).with_name("decode_check.cpp")
_MASK = (1 << 64) - 1


def compiled(decode: Path) -> ctypes.CDLL:
    """The sources in `decode` and decode_check.cpp."""
    includes = (f"-I{decode}", f"-I{decode.parent}")
    sources = sorted(decode.glob("*.cpp"))
    return ctypes.CDLL(str(without_executorch(sources, CHECK, *FLAGS, *includes, link=["-shared"])))


def mutant(folder: Path, name: str, before: str, after: str) -> ctypes.CDLL:
    """The library with a mistake in the source `name`, of a copy in `folder`."""
    runtime = Path(shutil.copytree(DECODE.parent, folder / "runtime", ignore=shutil.ignore_patterns("*.cpp")))
    decode = Path(shutil.copytree(DECODE, runtime / "decode", dirs_exist_ok=True))
    text = (decode / name).read_text(encoding="utf-8")
    assert before in text
    (decode / name).write_text(text.replace(before, after), encoding="utf-8")
    return compiled(decode)


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


class CppChoosing:
    """Lookup, early exit and controller of one conversation in C++. A draft takes `tick_s`.

    `agreement` is that of a taught draft, which drafts in place of the early exit.
    """

    def __init__(
        self,
        library: ctypes.CDLL,
        costs: RowCosts,
        max_rows: int,
        n_vocab: int,
        tick_s: float,
        *,
        agreement: float | None = None,
    ) -> None:
        self._library, self._n_vocab = library, n_vocab
        self._gated = "early-exit" if agreement is None else "feature"
        library.check_choosing.restype = c_void_p
        library.check_choose.restype = library.check_propose.restype = library.check_acceptance.restype = c_int64
        library.check_unit_s.restype = c_double
        tables = [
            np.array([table.get(rows, 0.0) for rows in range(1, max_rows + 1)])
            for table in (costs.verify_s, costs.back_s, costs.back_short_s)
        ]
        drafts_s = (c_double(costs.exit_draft_s), c_double(costs.first_draft_s))
        sizes = (c_int64(max_rows), c_int64(n_vocab))
        numbers = (c_double(tick_s), c_double(-1.0 if agreement is None else agreement))
        handle = library.check_choosing(*map(at, tables), *drafts_s, *sizes, *numbers)
        self._handle = c_void_p(handle)

    def reset(self, context: Tokens) -> None:
        tokens = np.array(context, np.int32)
        self._library.check_reset(self._handle, at(tokens), c_int64(len(tokens)))

    def extend(self, emitted: Tokens) -> None:
        tokens = np.array(emitted, np.int32)
        self._library.check_extend(self._handle, at(tokens), c_int64(len(tokens)))

    def choose(self, limit: int) -> Arm:
        depth = int(self._library.check_choose(self._handle, c_int64(limit)))
        return Arm("lookup" if depth > 0 else self._gated, abs(depth)) if depth else NONE

    def propose(
        self, name: str, limit: int, tokens: Tokens = (), rows: npt.NDArray[np.float32] | None = None
    ) -> list[int]:
        """`tokens` and `rows` [n, V]: what the early exit or the taught draft would draft."""
        out = np.empty(max(limit, 1), np.int32)
        drafts = np.array(tokens, np.int32)
        logits = np.empty((0, self._n_vocab), np.float32) if rows is None else rows
        limits = (c_int32(name == "lookup"), c_int64(limit))
        n = self._library.check_propose(self._handle, *limits, at(drafts), at(logits), c_int64(self._n_vocab), at(out))
        return out[:n].tolist()

    def observe(self, arm: Arm, outcome: Outcome) -> None:
        depth = arm.depth if arm.name == "lookup" else -arm.depth
        counts = (c_int64(n) for n in (depth, outcome.drafted, outcome.accepted, outcome.emitted))
        self._library.check_observe(self._handle, *counts, c_double(outcome.draft_s), c_double(outcome.verify_s))

    @property
    def plain_s(self) -> float:
        return float(self._library.check_unit_s(self._handle))

    def acceptance(self, limit: int) -> list[float]:
        out = np.empty(limit)
        return out[: self._library.check_acceptance(self._handle, c_int64(limit), at(out))].tolist()

    def close(self) -> None:
        self._library.check_choosing_free(self._handle)
