"""A round that drafts from features."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.draft.taps import Taps
from edgeinfer.backends.rounds import RoundGuard
from edgeinfer.backends.taught import FeatureDrafts
from edgeinfer.protocols import Row, TokenLike, as_id

__all__ = ["FeatureRound"]


@maps_engine_errors("llama.cpp")
class FeatureRound:
    """See protocols.Round. The drafts have a memory of their own: the model's holds verified rows alone."""

    __slots__ = ("_cache", "_drafted", "_drafts", "_guard", "_ids", "_n_run", "_taps")

    def __init__(self, cache: GgufCache, drafts: FeatureDrafts, taps: Taps, max_rows: int) -> None:
        self._cache = cache
        self._drafts = drafts
        self._taps = taps
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
        self._taps.take()
        rows = self._cache.run(self._ids, n_wanted)
        self._guard.n_verified = self._n_run
        return rows

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.finish(n, self._n_run)
        self._drafts.end(first_stays=n > 0 and self._drafted[:1] == self._ids[:1])
        if n:
            self._drafts.saw(self._ids[:n], self._taps.take()[:n])

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.finish(0, self._n_run)
            self._drafts.end(first_stays=False)
