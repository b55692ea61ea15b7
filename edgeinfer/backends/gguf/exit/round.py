"""A round that can draft with the early layers."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.gguf.cache import ContextRow, GgufCache
from edgeinfer.backends.gguf.exit.contexts import ExitContexts
from edgeinfer.backends.rounds import HeldRow, RoundGuard
from edgeinfer.protocols import Row, TokenLike, as_id
from edgeinfer.types import common_prefix


@maps_engine_errors("llama.cpp")
class ExitRound:
    """See protocols.Round. The memory holds drafted positions in the early layers only, until `verify`."""

    __slots__ = ("_contexts", "_drafted", "_guard", "_n_run", "cache")

    def __init__(self, cache: GgufCache, contexts: ExitContexts, max_rows: int) -> None:
        self.cache = cache
        self._contexts = contexts
        self._guard = RoundGuard(max_rows, max_drafts=contexts.n_rows)
        self._drafted: list[int] = []  # at length, length + 1, ...
        self._n_run = 0  # positions from `length` on that the memory may hold

    @property
    def is_plain(self) -> bool:
        """See streams.JoinedRound."""
        return not self._n_run

    def draft(self, token: TokenLike) -> Row:
        row = len(self._drafted)
        self._guard.draft(row)
        self.cache.be_open()
        token = as_id(token)
        self._n_run = row + 1
        context = self._contexts.draft(token, self.cache.length + row, row, stream=self.cache.stream)
        self._drafted.append(token)
        return HeldRow(context.logits(0).copy())

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        n_held = self._n_run
        ids, n_wanted = self.asked(tokens, n_rows)
        n = len(ids)
        n_known = common_prefix(self._drafted, ids) if self._drafted else 0
        if n_known and n <= self._contexts.n_rows:
            rows = self._reuse(ids, n_known, n_held)
        else:
            if n_held:
                self._remove(self.cache.length)
            chunk = n_wanted < n  # of a prompt
            rows = self.cache.forward(ids, n_wanted) if chunk or n == 1 else self._whole(ids)
        self.has_run(n)
        return rows[len(rows) - n_wanted :]

    def asked(self, tokens: Sequence[TokenLike], n_rows: int | None) -> tuple[list[int], int]:
        """See streams.JoinedRound."""
        n_wanted = self._guard.verify(len(tokens), n_rows)
        self.cache.be_open()
        self._n_run = max(len(tokens), self._n_run)
        return [as_id(token) for token in tokens], n_wanted

    def has_run(self, n: int) -> None:
        """See streams.JoinedRound."""
        self._n_run = self._guard.n_verified = n

    def _reuse(self, ids: list[int], n_known: int, n_held: int) -> Sequence[Row]:
        position, stream = self.cache.length, self.cache.stream
        if n_known < len(ids):
            if n_known < n_held:
                self._remove(position + n_known)
            self._contexts.early(ids[n_known:], position + n_known, n_known, stream=stream)
        context = self._contexts.late(ids, position, stream=stream)
        return [ContextRow(context, index) for index in range(len(ids))]

    def _whole(self, ids: list[int]) -> Sequence[Row]:
        position, stream, at_once = self.cache.length, self.cache.stream, self._contexts.n_rows
        if len(ids) <= at_once:
            context = self._contexts.whole(ids, position, stream=stream)
            return [ContextRow(context, index) for index in range(len(ids))]
        held: list[Row] = []
        for at in range(0, len(ids), at_once):
            part = ids[at : at + at_once]
            context = self._contexts.whole(part, position + at, stream=stream)
            held += [HeldRow(context.logits(index).copy()) for index in range(len(part))]
        return held

    def _remove(self, start: int) -> None:
        self._contexts.owner.remove(start, stream=self.cache.stream)

    def commit(self, n: int) -> None:
        self._guard.commit(n)
        self.cache.finish(n, self._n_run)

    def rollback(self) -> None:
        if self._guard.end():
            self.cache.finish(0, self._n_run)
