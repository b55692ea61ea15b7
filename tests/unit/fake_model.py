"""A model without weights. A row is a hash of the keys that its query sees, so one wrong key changes the next token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from edgeinfer.backends.rounds import run_in_turn
from edgeinfer.errors import EngineError, RewindError
from edgeinfer.protocols import Ask, Row, TokenLike, as_id
from edgeinfer.types import DraftsWith, Tokens
from edgeinfer.window import WindowPolicy

N_VOCAB = 24


class FakeRow:
    def __init__(self, seen: Any) -> None:
        self._seen = seen

    def numpy(self) -> Any:
        return np.random.default_rng(crc32(repr(self._seen).encode())).standard_normal(N_VOCAB).astype(np.float32) * 2

    def argmax(self) -> int:
        return int(self.numpy().argmax())


@dataclass
class FakeModel:
    """`exit_differs`: one in this many rows of the early exit differs from the whole model's; 0: none does."""

    exit_differs: int = 3
    tokenizer: Any = None
    drafts_with: DraftsWith = "early-exit"
    exact_rows: int | None = 1000
    n_threads: int = 1
    note: str = ""
    n_caches: int = 1000
    chunk_rows: int = 1000
    fails_at: int = -1  # the engine fails after this many asks; -1: never
    caches: list[FakeCache] = field(default_factory=list)

    def new_cache(self, policy: WindowPolicy) -> FakeCache:
        self.caches.append(FakeCache(self, policy))
        return self.caches[-1]

    def run(self, asks: Sequence[Ask]) -> list[Sequence[Row]]:
        return run_in_turn(asks)

    def rest(self) -> None:
        pass

    def count_down(self) -> None:
        if self.fails_at == 0:
            raise EngineError("the engine gave up")
        self.fails_at -= 1

    def close(self) -> None:
        pass


class FakeCache:
    """`tokens` holds the token at each position; `log` records what the engine was asked to run."""

    n_bytes = 0

    def __init__(self, model: FakeModel, policy: WindowPolicy) -> None:
        self.model = model
        self.policy = policy
        self.chunk_rows = model.chunk_rows
        self.tokens: list[int] = []
        self.log: list[tuple[str, int]] = []
        self.open = False

    @property
    def length(self) -> int:
        return len(self.tokens)

    def row(self, tokens: Tokens) -> FakeRow:
        query = len(tokens) - 1
        return FakeRow([(p, token) for p, token in enumerate(tokens) if self.policy.visible(query, p)])

    def begin(self, max_rows: int) -> FakeRound:
        assert not self.open and 1 <= max_rows <= self.policy.room(self.length)
        self.open = True
        return FakeRound(self, max_rows)

    def rewind(self, length: int) -> None:
        assert not self.open
        if not self.policy.can_rewind(self.length, length):
            raise RewindError(f"{self.length} to {length}")
        del self.tokens[length:]

    def close(self) -> None:
        self.log.append(("close", 0))


class FakeRound:
    def __init__(self, cache: FakeCache, max_rows: int) -> None:
        self._cache = cache
        self._max_rows = max_rows
        self._drafted: list[int] = []
        self._verified: list[int] = []
        self._ended = False

    def draft(self, token: TokenLike) -> Row:
        self._drafted.append(as_id(token))
        assert len(self._drafted) < self._max_rows and not self._ended
        row = self._cache.row([*self._cache.tokens, *self._drafted])
        every = self._cache.model.exit_differs
        return FakeRow("exit") if every and crc32(repr(self._drafted).encode()) % every == 0 else row

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        assert len(tokens) <= self._max_rows and not self._ended
        wanted = len(tokens) if n_rows is None else n_rows
        self._cache.log.append(("verify" if wanted == len(tokens) else "prefill", len(tokens)))
        self._cache.model.count_down()
        self._verified = [as_id(token) for token in tokens]
        known = self._cache.tokens
        return [self._cache.row([*known, *self._verified[: n + 1]]) for n in range(len(tokens) - wanted, len(tokens))]

    def commit(self, n: int) -> None:
        if self._ended or n > len(self._verified):
            raise EngineError(f"commit of {n} rows")
        self._cache.tokens += self._verified[:n]
        self._end()

    def rollback(self) -> None:
        if not self._ended:
            self._end()

    def _end(self) -> None:
        self._ended, self._cache.open = True, False
