"""One conversation on the reference: K/V rings by `policy.slot`, and the round that reads and extends them.

The forward writes keys as it goes. Nothing is remembered before `commit`: which keys a query sees follows from its
position, so keys at or after the length are overwritten before any query sees them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeinfer.backends.blocks import is_held, positions_in
from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.reference.storage import LayerRings, Rings
from edgeinfer.backends.rounds import HeldRow, RoundGuard, check_ids
from edgeinfer.backends.taught import TaughtDrafts
from edgeinfer.errors import EngineError, RewindError, UsageError
from edgeinfer.protocols import Ask, Row, TokenLike, as_id
from edgeinfer.types import common_prefix
from edgeinfer.window import WindowPolicy

if TYPE_CHECKING:
    from edgeinfer.backends.reference.model import ReferenceModel
    from edgeinfer.backends.reference.weights import Floats


@dataclass(frozen=True, slots=True)
class PackedRows:
    """A conversation's rows in a forward: `states` [T, hidden] from position `start` on, and the rings they see."""

    states: Floats
    start: int
    kv: Sequence[LayerRings]
    policy: WindowPolicy
    first: int = 0  # no key lies before this position


@maps_engine_errors("reference")
class ReferenceCache:
    """See protocols.Cache."""

    chunk_rows = 256

    def __init__(
        self,
        model: ReferenceModel,
        policy: WindowPolicy,
        rings: Rings,
        give_back: Callable[[WindowPolicy, Rings], None],
        drafts: TaughtDrafts[Floats] | None = None,
    ) -> None:
        self.policy = policy
        self.model = model
        self.layers = rings
        self.drafts = drafts
        self._give_back = give_back
        self._length = 0
        self._evicted = range(0)  # positions whose slots may have been reused
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
        if self.drafts:
            self.drafts.rewind(length)

    @property
    def block_format(self) -> str:
        return f"reference, NumPy {np.__version__}, K/V {self.model.kv_type}, {self.model.shape}"

    def snapshot(self, spans: Sequence[range]) -> Sequence[bytes | None]:
        self._check_ready()
        return [self._snapshot(span) if is_held(span, self._length, self._evicted) else None for span in spans]

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
        if self.drafts:
            self.drafts.start_at(at)

    def close(self) -> None:
        if self.layers:
            self._give_back(self.policy, self.layers)
        self.layers = []

    def rows(self, states: Floats, start: int) -> PackedRows:
        """`states` [T, hidden] from position `start`, as part of a forward."""
        self.be_open()
        return PackedRows(states, start, self.layers, self.policy)

    def end_round(self, n: int) -> None:
        """The only place where a round moves the length."""
        self._length += n
        self._round = None

    def _snapshot(self, span: range) -> bytes:
        slots = [self.policy.slot(position) for position in span]
        return b"".join(layer.snapshot(slots) for layer in self.layers)

    def be_open(self) -> None:
        if not self.layers:
            raise EngineError("the cache is closed")

    def _check_ready(self) -> None:
        self.be_open()
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
        self._ids: Sequence[int] = ()  # verified
        self._tapped: list[Floats] = []
        self._n_reused = 0
        self._states: Floats = cache.model.embed([])  # [drafted, hidden], after layers [0, exit)

    def draft(self, token: TokenLike) -> Row:
        drafts, model = self._cache.drafts, self._cache.model
        if not (self._exit or drafts):
            raise UsageError("this model does not draft: it has no exit layer and no taught draft")
        at = len(self._drafted)
        self._guard.draft(at)
        check_ids([token], model.shape.n_vocab)
        token = as_id(token)
        if drafts:
            row = drafts.draft(token, self._start + at)
            self._drafted.append(token)
            return row
        [state] = model.forward([self._cache.rows(model.embed([token]), self._start + at)], range(self._exit))
        self._drafted.append(token)
        self._states = np.concatenate([self._states, state])
        return HeldRow(model.head(state)[0])

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        return self._cache.model.run([Ask(self, tokens, len(tokens) if n_rows is None else n_rows)])[0]

    def ask(self, n_tokens: int, n_rows: int) -> None:
        """The one verify of this round begins. Raises EngineError where the round does not allow it."""
        self._guard.verify(n_tokens, n_rows)
        self._cache.be_open()

    def early(self, ids: Sequence[int]) -> PackedRows:
        """The rows that the early layers must run: the tokens after the drafts that were kept."""
        self._ids = ids
        self._n_reused = common_prefix(self._drafted, ids) if self._exit else 0
        return self._cache.rows(self._cache.model.embed(ids[self._n_reused :]), self._start + self._n_reused)

    def late(self, states: Floats) -> PackedRows:
        """The rows that the late layers must run, given the result of `early`."""
        return self._cache.rows(np.concatenate([self._states[: self._n_reused], states]), self._start)

    def tap(self, states: Floats) -> None:
        """`states` [T, hidden] at the next layer that the draft taps."""
        self._tapped.append(states)

    def has_run(self, n_tokens: int) -> None:
        self._guard.n_verified = n_tokens

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.end_round(n)
        if self._cache.drafts:
            self._cache.drafts.end(common_prefix(self._drafted, self._ids[:n]))
            tapped = np.concatenate(self._tapped, axis=1) if self._tapped else self._states[:0]
            self._cache.drafts.saw(self._ids[:n], tapped[:n])

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.end_round(0)
            if self._cache.drafts:
                self._cache.drafts.end(0)
