"""One conversation on the reference: K/V rings by `policy.slot`, and the round that reads and extends them.

The forward writes keys as it goes. Nothing is remembered before `commit`: a query's view follows from its position, so
keys behind the length are seen by no one before they are written again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.backends.blocks import positions_in
from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.reference.storage import Ring
from edgeinfer.backends.rounds import RoundGuard
from edgeinfer.errors import EngineError, RewindError, UsageError
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.types import KvType, common_prefix, of_k_and_v
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.reference.model import ReferenceModel
    from edgeinfer.backends.reference.weights import Floats, Shape
    from edgeinfer.types import Logits


class LayerKv:
    """K and V of one layer."""

    def __init__(self, shape: Shape, slots: int, kv_type: KvType) -> None:
        self._k, self._v = (Ring(shape, slots, kind) for kind in of_k_and_v(kv_type))
        self.n_bytes = self._k.n_bytes + self._v.n_bytes

    def write(self, slots: list[int], k: Floats, v: Floats) -> None:
        """k, v: [T, KV heads, head_dim]."""
        self._k.write(slots, k.transpose(1, 0, 2))
        self._v.write(slots, v.transpose(1, 0, 2))

    def read(self, n_slots: int) -> tuple[Floats, Floats]:
        """K and V of the first `n_slots` slots: [KV heads, n_slots, head_dim]."""
        return self._k.read(n_slots), self._v.read(n_slots)

    def snapshot(self, slots: list[int]) -> bytes:
        return self._k.stored(slots) + self._v.stored(slots)

    def restore(self, slots: list[int], data: bytes) -> None:
        n_bytes = self._k.n_stored(len(slots))
        self._k.store(slots, data[:n_bytes])
        self._v.store(slots, data[n_bytes:])

    def n_stored(self, n_slots: int) -> int:
        """Bytes of a snapshot of `n_slots`."""
        return self._k.n_stored(n_slots) + self._v.n_stored(n_slots)


@maps_engine_errors("reference")
class ReferenceRow:
    """See protocols.Row."""

    def __init__(self, logits: Logits) -> None:
        self._logits = logits

    def argmax(self) -> int:
        return int(self._logits.argmax())

    def numpy(self) -> Logits:
        return self._logits


@maps_engine_errors("reference")
class ReferenceCache:
    """See protocols.Cache."""

    chunk_rows = 256

    def __init__(self, model: ReferenceModel, policy: WindowPolicy) -> None:
        self.policy = policy
        self.model = model
        self.layers = [LayerKv(model.shape, policy.slots, model.kv_type) for _ in range(model.shape.n_layers)]
        self._length = 0
        self._evicted = range(0)  # positions whose slots others may have taken
        self._round: ReferenceRound | None = None

    @property
    def length(self) -> int:
        return self._length

    @property
    def n_bytes(self) -> int:
        return sum(layer.n_bytes for layer in self.layers)

    def begin(self, max_rows: int) -> ReferenceRound:
        self._check_ready()
        room = self.policy.room(self._length)
        if not 1 <= max_rows <= room:
            raise UsageError(f"a round of {max_rows} rows at {self._length} positions: 1 to {room} are possible")
        self._evicted = self.policy.evicted(self._length)
        self._round = ReferenceRound(self, max_rows)
        return self._round

    def rewind(self, length: int) -> None:
        self._check_ready()
        if not self.policy.can_rewind(self._length, length):
            raise RewindError(f"{self._length} positions cannot go back to {length}: keys for it are gone")
        self._length = length
        if length == 0:
            self._evicted = range(0)

    @property
    def block_format(self) -> str:
        return f"reference, NumPy {np.__version__}, K/V {self.model.kv_type}, {self.model.shape}"

    def snapshot(self, spans: Sequence[range]) -> Sequence[bytes | None]:
        self._check_ready()
        return [self._snapshot(span) if self._holds(span) else None for span in spans]

    def restore(self, blocks: Sequence[bytes]) -> None:
        self._check_ready()
        sizes = positions_in(blocks, sum(layer.n_stored(1) for layer in self.layers), self)
        at = 0
        for n, block in zip(sizes, blocks, strict=True):
            slots = [self.policy.slot(position) for position in range(at, at + n)]
            for index, layer in enumerate(self.layers):
                n_bytes = layer.n_stored(n)
                layer.restore(slots, block[index * n_bytes : (index + 1) * n_bytes])
            at += n
        self._length = at

    def close(self) -> None:
        self.layers = []

    def forward(self, states: Floats, start: int, layers: range) -> Floats:
        """`states` [T, hidden] at positions `start` and on, through `layers`."""
        self._be_open()
        return self.model.forward(states, start, layers, self.layers, self.policy)

    def end_round(self, n: int) -> None:
        """The one place where a round moves the length."""
        self._length += n
        self._round = None

    def _snapshot(self, span: range) -> bytes:
        slots = [self.policy.slot(position) for position in span]
        return b"".join(layer.snapshot(slots) for layer in self.layers)

    def _holds(self, span: range) -> bool:
        before, after = span.stop <= self._evicted.start, span.start >= self._evicted.stop
        return span.stop <= self._length and (not self._evicted or before or after)

    def _be_open(self) -> None:
        if not self.layers:
            raise EngineError("the cache is closed")

    def _check_ready(self) -> None:
        self._be_open()
        if self._round is not None:
            raise EngineError("a round is open on this cache")


@maps_engine_errors("reference")
class ReferenceRound:
    """See protocols.Round. Drafted tokens and their states at the exit layer are kept for `verify`."""

    def __init__(self, cache: ReferenceCache, max_rows: int) -> None:
        self._cache = cache
        self._guard = RoundGuard(max_rows)
        self._start = cache.length
        self._exit = cache.model.exit_layer or 0
        self._drafted: list[int] = []
        self._states: Floats = cache.model.embed([])  # [drafted, hidden], after layers [0, exit)

    def draft(self, token: TokenLike) -> Row:
        if not self._exit:
            raise UsageError("this model names no exit layer to draft with")
        at = len(self._drafted)
        self._guard.draft(at)
        model = self._cache.model
        token = as_id(token)
        state = self._cache.forward(model.embed([token]), self._start + at, range(self._exit))
        self._drafted.append(token)
        self._states = np.concatenate([self._states, state])
        return ReferenceRow(model.head(state)[0])

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        n_wanted = self._guard.verify(len(tokens), n_rows)
        model, ids = self._cache.model, [as_id(token) for token in tokens]
        ready = common_prefix(self._drafted, ids)
        rest = self._cache.forward(model.embed(ids[ready:]), self._start + ready, range(self._exit))
        states = np.concatenate([self._states[:ready], rest])
        states = self._cache.forward(states, self._start, range(self._exit, model.shape.n_layers))
        self._guard.n_verified = len(ids)
        return [ReferenceRow(row) for row in model.head(states[len(ids) - n_wanted :])] if n_wanted else []

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.end_round(n)

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.end_round(0)
