"""The conversation cache and its rounds on MLX. Arrays stay lazy until a row is asked for: one evaluation a round."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata
from typing import TYPE_CHECKING, Any

import mlx.core as mx
import numpy as np

from edgeinfer.backends import engine_errors
from edgeinfer.backends.blocks import is_held, positions_in
from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.mlx.adapter import Stages
from edgeinfer.backends.mlx.kernels import Head, Kernels
from edgeinfer.backends.mlx.ring import STEP, KvBits, RingLayer, Span
from edgeinfer.backends.rounds import RoundGuard, check_ids
from edgeinfer.errors import EdgeInferError, EngineError, RewindError, UsageError
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.types import Logits


_PLAIN = Kernels()


def engine_error(error: Exception) -> EdgeInferError:
    return engine_errors.engine_error("MLX", error)


class Pending:
    """The rows of one round that have not been read yet. Reading one evaluates all of them at once."""

    def __init__(self) -> None:
        self.waiting: list[MlxRow] = []

    def evaluate(self) -> None:
        waiting, self.waiting = self.waiting, []
        try:
            mx.eval([row.token for row in waiting])
        except Exception as error:
            raise engine_error(error) from error


@maps_engine_errors("MLX")
class MlxRow:
    """logits [V] and their argmax, both still on the device. What is never read is never computed."""

    def __init__(self, pending: Pending, logits: mx.array, token: mx.array) -> None:
        self.logits = logits
        self.token = token  # [] int32
        self._pending = pending
        self._argmax: int | None = None
        pending.waiting.append(self)

    def argmax(self) -> int:
        if self._argmax is None:
            self._pending.evaluate()
            self._argmax = int(np.array(self.token))
        return self._argmax

    def numpy(self) -> Logits:
        self._pending.evaluate()
        return np.array(self.logits.astype(mx.float32))


def as_array(tokens: Sequence[TokenLike], n_vocab: int) -> mx.array:
    """[1, T] int32; a row of this backend stands for its argmax without leaving the device."""
    check_ids(tokens, n_vocab)
    if all(isinstance(token, int) for token in tokens):
        return mx.array([list(tokens)], mx.int32)
    parts = [token.token if isinstance(token, MlxRow) else mx.array(as_id(token), mx.int32) for token in tokens]
    return mx.stack(parts)[None]


@maps_engine_errors("MLX")
class MlxCache:
    """One ring per layer that keeps K/V, and the one `length` that they all follow."""

    chunk_rows = STEP

    def __init__(
        self,
        stages: Stages,
        policy: WindowPolicy,
        own_windows: Sequence[int],
        *,
        kv_bits: KvBits = None,
        kernels: Kernels = _PLAIN,
        head: Head | None = None,
    ) -> None:
        self.policy = policy
        self.stages = stages
        self._kernels = kernels
        self._head = head
        self.span = Span(policy)
        self.layers = [RingLayer(self.span, kernels, kv_bits=kv_bits, own_window=own) for own in own_windows]
        self._length = 0
        self._evicted = range(0)  # positions whose slots may hold other positions by now
        self._round: MlxRound | None = None
        self._closed = False
        self._shape_rings()

    @property
    def length(self) -> int:
        return self._length

    @property
    def n_bytes(self) -> int:
        return sum(layer.n_bytes for layer in self.layers)

    def rows(self, pending: Pending, hidden: mx.array) -> list[MlxRow]:
        """A row for each of hidden [1, T, D]; the tokens by head_top1 where there is one."""
        logits = self.stages.head(hidden)[0]
        if self._head is not None:
            tokens = self._kernels.head_top1(hidden[0], self._head).token
        else:
            tokens = mx.argmax(logits, axis=-1).astype(mx.int32)
        return [MlxRow(pending, logits[index], tokens[index]) for index in range(hidden.shape[1])]

    def begin(self, max_rows: int) -> MlxRound:
        self._refuse_open_round()
        room = self.policy.room(self._length)
        if not 1 <= max_rows <= room:
            raise UsageError(f"a round at length {self._length} may have 1 to {room} rows; received {max_rows}")
        self._evicted = self.policy.evicted(self._length)
        self._round = MlxRound(self, max_rows)
        return self._round

    def rewind(self, length: int) -> None:
        self._refuse_open_round()
        if length > self._length or not self.policy.can_rewind(self._length, length):
            raise RewindError(f"cannot rewind from {self._length} to {length}: keys that it needs are evicted")
        if length < self._length and not all(layer.can_rewind(length) for layer in self.layers):
            raise RewindError(f"cannot rewind to {length}: its keys have left the model's own sliding window")
        self._length = length
        if length == 0:
            self._evicted = range(0)

    @property
    def block_format(self) -> str:
        if any(layer.storage is not self.policy for layer in self.layers):  # a layer's own window loses positions
            return ""
        kinds = {f"{layer.ring.dtype} of {layer.ring.shape}" for layer in self.layers if layer.ring is not None}
        return f"MLX {metadata.version('mlx')}, {len(self.layers)} layers, {', '.join(sorted(kinds))}"

    def snapshot(self, spans: Sequence[range]) -> Sequence[bytes | None]:
        self._refuse_open_round()
        return [self._snapshot(span) if is_held(span, self._length, self._evicted) else None for span in spans]

    def restore(self, blocks: Sequence[bytes]) -> None:
        self._refuse_open_round()
        counts = positions_in(blocks, self.n_bytes // self.policy.slots, self)
        at = 0
        for n, block in zip(counts, blocks, strict=True):
            slots, start = [self.policy.slot(position) for position in range(at, at + n)], 0
            for layer in self.layers:
                n_bytes = n * layer.n_bytes // self.policy.slots
                layer.store(slots, block[start : start + n_bytes])
                start += n_bytes
            at += n
        mx.eval([layer.ring for layer in self.layers])
        self._length = at

    def close(self) -> None:
        for layer in self.layers:
            layer.ring = None
        self._round = None
        self._closed = True

    def end_round(self, keep: int) -> None:
        self._length += keep
        self._round = None

    def _snapshot(self, span: range) -> bytes:
        slots = [self.policy.slot(position) for position in span]
        return b"".join(layer.stored(slots) for layer in self.layers)

    def _shape_rings(self) -> None:
        """Learn each layer's K/V shape by tracing one lazy forward; nothing is evaluated."""
        hidden = self._forward(mx.zeros((1, 1), mx.int32))
        self.n_vocab: int = self.stages.head(hidden).shape[-1]
        for layer in self.layers:
            layer.clear()

    def _forward(self, tokens: mx.array) -> mx.array:
        """The whole stack for [1, T] tokens at `length`; hidden [1, T, D]."""
        self.span.place(self._length, tokens.shape[1])
        try:
            hidden = self.stages.front(tokens, self.layers) if self.stages.exit_layer else None
            return self.stages.back(tokens, hidden, self.layers)
        except Exception as error:
            raise engine_error(error) from error

    def _refuse_open_round(self) -> None:
        if self._closed:
            raise EngineError("this cache is closed")
        if self._round is not None:
            raise EngineError("a round is open on this cache; commit or roll it back first")


@maps_engine_errors("MLX")
class MlxRound:
    """Drafted positions keep their hidden state on the device; `verify` starts the late layers from it."""

    def __init__(self, cache: MlxCache, max_rows: int) -> None:
        self._cache = cache
        self._guard = RoundGuard(max_rows)
        self._start = cache.length
        self._pending = Pending()
        self._tokens: list[TokenLike] = []  # whose early layers have run in this round
        self._hidden: list[mx.array] = []  # [1, 1, D] each

    def draft(self, token: TokenLike) -> Row:
        if not self._cache.stages.exit_layer:
            raise EngineError("this model names no exit layer, so it cannot draft")
        at = len(self._hidden)
        self._guard.draft(at)
        self._cache.span.place(self._start + at, 1)
        try:
            hidden = self._cache.stages.front(as_array([token], self._cache.n_vocab), self._layers)
            row = self._cache.rows(self._pending, hidden)[0]
        except Exception as error:
            raise engine_error(error) from error
        self._tokens.append(token)
        self._hidden.append(hidden)
        return row

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        n_wanted = self._guard.verify(len(tokens), n_rows)
        reused = self._reusable(tokens)
        stages, ids = self._cache.stages, as_array(tokens, self._cache.n_vocab)
        try:
            hidden = None
            if stages.exit_layer:
                parts = self._hidden[:reused]
                if reused < len(tokens):
                    self._cache.span.place(self._start + reused, len(tokens) - reused)
                    parts = [*parts, stages.front(ids[:, reused:], self._layers)]
                hidden = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=1)
            self._cache.span.place(self._start, len(tokens))
            hidden = stages.back(ids, hidden, self._layers)
            if n_wanted < len(tokens):  # a chunk of a prompt: its rows may never be read
                mx.eval([layer.ring for layer in self._cache.layers if layer.ring is not None])
            rows = self._cache.rows(self._pending, hidden[:, len(tokens) - n_wanted :]) if n_wanted else []
        except Exception as error:
            raise engine_error(error) from error
        self._guard.n_verified = len(tokens)
        return rows

    @property
    def n_vocab(self) -> int:
        return self._cache.n_vocab

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.end_round(n)

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.end_round(0)

    @property
    def _layers(self) -> list[Any]:
        return list(self._cache.layers)

    def _reusable(self, tokens: Sequence[TokenLike]) -> int:
        """How many leading tokens were drafted in this round. A row is compared by identity, not by value."""
        reused = 0
        for token, drafted in zip(tokens, self._tokens, strict=False):
            if token is not drafted and not (isinstance(token, int) and isinstance(drafted, int) and token == drafted):
                break
            reused += 1
        return reused
