"""A round whose drafts come from a taught layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.cache import GgufCache
from edgeinfer.backends.gguf.draft.taps import Taps
from edgeinfer.backends.rounds import RoundGuard
from edgeinfer.backends.taught import TaughtDrafts
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.types import common_prefix

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats

__all__ = ["TaughtRound"]

_NO_STATES: Final[Floats] = np.zeros((0, 0), np.float32)


@maps_engine_errors("llama.cpp")
class TaughtRound:
    """See protocols.Round. Drafts have a separate K/V memory; the model's holds only verified rows."""

    __slots__ = ("_drafted", "_drafts", "_guard", "_ids", "_n_run", "_states", "_taps", "cache")

    def __init__(self, cache: GgufCache, drafts: TaughtDrafts[Floats], taps: Taps | None, max_rows: int) -> None:
        """`taps` of the cache's context; None: the draft needs none."""
        self.cache = cache
        self._drafts = drafts
        self._taps = taps
        self._states = _NO_STATES  # of the rows that were run
        self._guard = RoundGuard(max_rows)
        self._drafted: list[int] = []
        self._ids: list[int] = []
        self._n_run = 0  # rows that the memory may hold from `length` on

    @property
    def is_plain(self) -> bool:
        """See streams.JoinedRound."""
        return True

    def draft(self, token: TokenLike) -> Row:
        at = len(self._drafted)
        self._guard.draft(at)
        self.cache.be_open()
        token = as_id(token)
        row = self._drafts.draft(token, self.cache.length + at)
        self._drafted.append(token)
        return row

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        ids, n_wanted = self.asked(tokens, n_rows)
        rows = self.cache.forward(ids, n_wanted)
        self.has_run(len(ids))
        return rows

    def asked(self, tokens: Sequence[TokenLike], n_rows: int | None) -> tuple[list[int], int]:
        """See streams.JoinedRound."""
        n_wanted = self._guard.verify(len(tokens), n_rows)
        self._ids = [as_id(token) for token in tokens]
        self.cache.be_open()
        self._n_run = len(self._ids)
        return self._ids, n_wanted

    def has_run(self, n: int) -> None:
        """See streams.JoinedRound."""
        self._guard.n_verified = n
        if self._taps is not None:
            self._states = self._taps.take(self.cache.stream)[-n:]  # before them, rows of a decode that failed

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self.cache.finish(n, self._n_run)
        self._drafts.end(common_prefix(self._drafted, self._ids[:n]))
        if n:
            self._drafts.saw(self._ids[:n], self._states[:n])

    def rollback(self) -> None:
        if self._guard.end():
            self.cache.finish(0, self._n_run)
            self._drafts.end(0)
