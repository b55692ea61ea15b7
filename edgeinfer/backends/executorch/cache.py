"""One conversation on an exported program: its length, and the round that reads and extends its rings.

Nothing is remembered before `commit`: which keys a query sees follows from its position, so what a round wrote beyond
the length is overwritten before any query sees it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.executorch.engine import Floats, ProgramInfo, Rings
from edgeinfer.backends.executorch.taught import ConversationDrafts, ExecutorchTaught
from edgeinfer.backends.rounds import HeldRow, RoundGuard
from edgeinfer.errors import EngineError, RewindError, UsageError
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.types import common_prefix
from edgeinfer.window import WindowPolicy

_NOTHING: Floats = np.zeros((0, 0), np.float32)


@maps_engine_errors("ExecuTorch")
class ExecutorchCache:
    """See protocols.Cache."""

    def __init__(
        self, rings: Rings, info: ProgramInfo, policy: WindowPolicy, taught: ExecutorchTaught | None = None
    ) -> None:
        self.policy = policy
        self.chunk_rows = info.max_tokens
        self.rings = rings
        self.info = info
        self.drafts: ConversationDrafts | None = taught.on(policy, rings.front) if taught else None
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
        if self.drafts:
            self.drafts.rewind(length)

    def close(self) -> None:
        self.rings.close()
        if self.drafts:
            self.drafts.close()

    def forward(self, ids: Sequence[int], start: int, n_rows: int) -> tuple[Floats, Floats]:
        """All layers for `ids` at `start` and on; logits of the last `n_rows`, [n_rows, V], and what the draft needs to
        see of `ids`, [T, ...]: empty where no draft was taught."""
        found = [
            self._forward(ids[at : at + n], start + at, wanted) for at, n, wanted in self._pieces(len(ids), n_rows)
        ]
        if len(found) == 1:
            return found[0]
        rows, seen = zip(*found, strict=True)
        return np.concatenate(rows), np.concatenate(seen)

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

    def _forward(self, ids: Sequence[int], start: int, n_rows: int) -> tuple[Floats, Floats]:
        if not self.drafts:
            return self.rings.forward(ids, start, n_rows), _NOTHING
        if self.info.draft_n_taps:
            return self.rings.forward_tapped(ids, start, n_rows)
        states = self.rings.front(ids, start)
        return self.rings.verify(states, start, n_rows), states

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
    """See protocols.Round. Drafted tokens are kept for `verify`, and their states where early layers ran for them."""

    def __init__(self, cache: ExecutorchCache, max_rows: int) -> None:
        self._cache = cache
        self._guard = RoundGuard(max_rows)
        self._start = cache.length
        self._drafted: list[int] = []
        self._states: list[Floats] = []  # [hidden] of each drafted token, after the early layers
        self._ids: list[int] = []  # verified
        self._seen = _NOTHING  # what the taught draft needs to see of them, [T, ...]

    def draft(self, token: TokenLike) -> Row:
        cache, at = self._cache, len(self._drafted)
        if not (cache.info.exit_layer or cache.drafts):
            raise UsageError("this program does not draft: it has no exit layer and no taught draft")
        self._guard.draft(at)
        token = as_id(token)
        row, state = self._draft(token, self._start + at)
        self._drafted.append(token)
        if state is not None:
            self._states.append(state)
        return row

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        n_wanted = self._guard.verify(len(tokens), n_rows)
        self._ids = ids = [as_id(token) for token in tokens]
        ready = common_prefix(self._drafted, ids) if self._states else 0
        if ready:
            self._seen = self._early_states(ids, ready)
            logits = self._cache.verify(self._seen, self._start, n_wanted)
        else:
            logits, self._seen = self._cache.forward(ids, self._start, n_wanted)
        self._guard.n_verified = len(ids)
        return [HeldRow(row) for row in logits]

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.end_round(n)
        if self._cache.drafts:
            self._cache.drafts.end(common_prefix(self._drafted, self._ids[:n]))
            self._cache.drafts.saw(self._ids[:n], self._seen[:n])

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.end_round(0)
            if self._cache.drafts:
                self._cache.drafts.end(0)

    def _draft(self, token: int, position: int) -> tuple[Row, Floats | None]:
        if self._cache.drafts:
            return self._cache.drafts.draft(token, position)
        logits, state = self._cache.rings.draft(token, position)
        return HeldRow(logits), state

    def _early_states(self, ids: list[int], ready: int) -> Floats:
        """States [T, hidden] at the exit layer. The early layers run only for tokens after the `ready` drafted ones."""
        states = np.stack(self._states[:ready])
        if ready == len(ids):
            return states
        rest = self._cache.rings.front(ids[ready:], self._start + ready)
        return np.concatenate([states, rest])
