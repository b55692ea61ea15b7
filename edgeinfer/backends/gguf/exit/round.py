"""A round that can draft with the early layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.cache import ContextRow
from edgeinfer.backends.gguf.exit.contexts import ExitContexts
from edgeinfer.backends.rounds import HeldRow, RoundGuard
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.types import Tokens, common_prefix


class CountedCache(Protocol):
    """What a round needs of its cache."""

    @property
    def length(self) -> int: ...
    def forward(self, tokens: Tokens, n_rows: int) -> Sequence[Row]: ...
    def finish(self, n_kept: int, n_run: int) -> None: ...


@maps_engine_errors("llama.cpp")
class ExitRound:
    """See protocols.Round. The memory holds drafted positions in the early layers only, until `verify`."""

    __slots__ = ("_cache", "_drafted", "_guard", "_lanes", "_n_run")

    def __init__(self, cache: CountedCache, lanes: ExitContexts, max_rows: int) -> None:
        self._cache = cache
        self._lanes = lanes
        self._guard = RoundGuard(max_rows, max_drafts=lanes.n_rows)
        self._drafted: list[int] = []  # tokens whose exit states are held, at length, length + 1, ...
        self._n_run = 0  # positions from `length` on that the memory may hold

    def draft(self, token: TokenLike) -> Row:
        row = len(self._drafted)
        self._guard.draft(row)
        token = as_id(token)
        self._n_run = row + 1
        context = self._lanes.draft(token, self._cache.length + row, row)
        self._drafted.append(token)
        return HeldRow(context.logits(0).copy())

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        n = len(tokens)
        n_wanted = self._guard.verify(n, n_rows)
        ids = [as_id(token) for token in tokens]
        n_held, self._n_run = self._n_run, max(n, self._n_run)
        n_known = common_prefix(self._drafted, ids) if self._drafted else 0
        if n_known and n <= self._lanes.n_rows:
            rows = self._reuse(ids, n_known, n_held)
        else:
            if n_held:
                self._lanes.owner.remove(self._cache.length)
            chunk = n_wanted < n  # of a prompt
            rows = self._cache.forward(ids, n_wanted) if chunk or n == 1 else self._whole(ids)
        self._n_run = self._guard.n_verified = n
        return rows[len(rows) - n_wanted :]

    def _reuse(self, ids: list[int], n_known: int, n_held: int) -> Sequence[Row]:
        position = self._cache.length
        if n_known < len(ids):
            if n_known < n_held:
                self._lanes.owner.remove(position + n_known)
            self._lanes.early(ids[n_known:], position + n_known, n_known)
        context = self._lanes.late(ids, position)
        return [ContextRow(context, index) for index in range(len(ids))]

    def _whole(self, ids: list[int]) -> Sequence[Row]:
        position, at_once = self._cache.length, self._lanes.n_rows
        if len(ids) <= at_once:
            context = self._lanes.whole(ids, position)
            return [ContextRow(context, index) for index in range(len(ids))]
        held: list[Row] = []
        for at in range(0, len(ids), at_once):
            part = ids[at : at + at_once]
            context = self._lanes.whole(part, position + at)
            held += [HeldRow(context.logits(index).copy()) for index in range(len(part))]
        return held

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self._cache.finish(n, self._n_run)

    def rollback(self) -> None:
        if self._guard.end():
            self._cache.finish(0, self._n_run)
