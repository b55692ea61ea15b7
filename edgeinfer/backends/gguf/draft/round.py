"""A round whose drafts come from a taught layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.rounds import RoundGuard
from edgeinfer.backends.taught import TaughtDrafts
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.types import common_prefix

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats

__all__ = ["TaughtRound"]


@maps_engine_errors("llama.cpp")
class TaughtRound:
    """See protocols.Round. Drafts have a separate K/V memory; the model's holds only verified rows."""

    __slots__ = ("_cache", "_drafted", "_drafts", "_guard", "_ids", "_n_run", "_tapped")

    def __init__(
        self, cache: GgufCache, drafts: TaughtDrafts[Floats], tapped: Callable[[], Floats], max_rows: int
    ) -> None:
        """`tapped` gives the tapped states [T, taps x hidden] of the rows that were decoded since its last call."""
        self._cache = cache
        self._drafts = drafts
        self._tapped = tapped
        self._guard = RoundGuard(max_rows)
        self._drafted: list[int] = []
        self._ids: list[int] = []
        self._n_run = 0  # rows that the memory may hold from `length` on

    def draft(self, token: TokenLike) -> Row:
        at = len(self._drafted)
        self._guard.draft(at)
        self._cache.be_open()
        token = as_id(token)
        row = self._drafts.draft(token, self._cache.length + at)
        self._drafted.append(token)
        return row

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        n_wanted = self._guard.verify(len(tokens), n_rows)
        self._ids = [as_id(token) for token in tokens]
        self._cache.be_open()
        self._n_run = len(self._ids)
        self._tapped()
        rows = self._cache.forward(self._ids, n_wanted)
        self._guard.n_verified = self._n_run
        return rows

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.finish(n, self._n_run)
        self._drafts.end(common_prefix(self._drafted, self._ids[:n]))
        if n:
            self._drafts.saw(self._ids[:n], self._tapped()[:n])

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.finish(0, self._n_run)
            self._drafts.end(0)
