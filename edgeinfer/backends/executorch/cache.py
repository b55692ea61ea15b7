"""One conversation on an exported program: its length, and the round that reads and extends its rings.

Nothing is remembered before `commit`: which keys a query sees follows from its position, so what a round wrote beyond
the length is overwritten before any query sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.executorch.engine import Floats, ProgramInfo, Rings
from edgeinfer.backends.rounds import HeldRow, RoundGuard
from edgeinfer.errors import EngineError, RewindError, UsageError
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.types import common_prefix
from edgeinfer.window import WindowPolicy


@maps_engine_errors("ExecuTorch")
class ExecutorchCache:
    """See protocols.Cache."""

    def __init__(self, rings: Rings, info: ProgramInfo, policy: WindowPolicy) -> None:
        self.policy = policy
        self.chunk_rows = info.max_tokens
        self.rings = rings
        self.info = info
        self._length = 0
        self._round: ExecutorchRound | None = None

    @property
    def length(self) -> int:
        return self._length

    @property
    def n_bytes(self) -> int:
        return self.rings.n_bytes

    def begin(self, max_rows: int) -> ExecutorchRound:
        self._check_ready()
        room = self.policy.room(self._length)
        if not 1 <= max_rows <= room:
            raise UsageError(f"a round of {max_rows} rows at {self._length} positions: 1 to {room} are possible")
        self._round = ExecutorchRound(self, max_rows)
        return self._round

    def rewind(self, length: int) -> None:
        self._check_ready()
        if not self.policy.can_rewind(self._length, length):
            raise RewindError(f"{self._length} positions cannot go back to {length}: keys for it are gone")
        self._length = length

    def close(self) -> None:
        self.rings.close()

    def forward(self, ids: Sequence[int], start: int, n_rows: int) -> Floats:
        """All layers for `ids` at `start` and on; logits of the last `n_rows`, [n_rows, V]."""
        rows = [
            self.rings.forward(ids[at : at + n], start + at, wanted) for at, n, wanted in self._pieces(len(ids), n_rows)
        ]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def verify(self, states: Floats, start: int, n_rows: int) -> Floats:
        """The late layers for `states` [T, hidden]; logits of the last `n_rows`, [n_rows, V]."""
        rows = [
            self.rings.verify(states[at : at + n], start + at, wanted)
            for at, n, wanted in self._pieces(len(states), n_rows)
        ]
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    def end_round(self, n: int) -> None:
        """The only place where a round changes the length."""
        self._length += n
        self._round = None

    def _pieces(self, n: int, n_rows: int) -> Iterator[tuple[int, int, int]]:
        """Splits `n` tokens into forwards that the program takes: (first token, number of tokens, number of rows)."""
        n_quiet, at = n - n_rows, 0
        while at < n:
            size = min(n - at, self.info.max_tokens, max(0, n_quiet - at) + self.info.max_rows)
            yield at, size, min(size, max(0, at + size - n_quiet))
            at += size

    def _check_ready(self) -> None:
        if not self.rings.is_open:
            raise EngineError("the cache is closed")
        if self._round is not None:
            raise EngineError("a round is open on this cache")


@maps_engine_errors("ExecuTorch")
class ExecutorchRound:
    """See protocols.Round. Drafted tokens and their states at the exit layer are kept for `verify`."""

    def __init__(self, cache: ExecutorchCache, max_rows: int) -> None:
        self._cache = cache
        self._guard = RoundGuard(max_rows)
        self._start = cache.length
        self._drafted: list[int] = []
        self._states: list[Floats] = []  # [hidden] of each drafted token, after layers [0, exit_layer)

    def draft(self, token: TokenLike) -> Row:
        if not self._cache.info.exit_layer:
            raise UsageError("this program has no exit layer to draft with")
        at = len(self._drafted)
        self._guard.draft(at)
        logits, state = self._cache.rings.draft(as_id(token), self._start + at)
        self._drafted.append(as_id(token))
        self._states.append(state)
        return HeldRow(logits)

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        n_wanted = self._guard.verify(len(tokens), n_rows)
        ids = [as_id(token) for token in tokens]
        ready = common_prefix(self._drafted, ids)
        if ready:
            logits = self._cache.verify(self._early_states(ids, ready), self._start, n_wanted)
        else:
            logits = self._cache.forward(ids, self._start, n_wanted)
        self._guard.n_verified = len(ids)
        return [HeldRow(row) for row in logits]

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.end_round(n)

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.end_round(0)

    def _early_states(self, ids: list[int], ready: int) -> Floats:
        """States [T, hidden] at the exit layer. The early layers run only for tokens after the `ready` drafted ones."""
        states = np.stack(self._states[:ready])
        if ready == len(ids):
            return states
        rest = self._cache.rings.front(ids[ready:], self._start + ready)
        return np.concatenate([states, rest])
