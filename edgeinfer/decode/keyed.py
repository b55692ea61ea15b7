"""Drafting for a sampled answer: a draft row stands for the sample that the same noise would draw from it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeinfer.protocols import Round, Row, TokenLike, as_id
from edgeinfer.types import Tokens

if TYPE_CHECKING:
    from edgeinfer.decode.sampler import Sampler
    from edgeinfer.types import Logits


class KeyedRow:
    """A draft's row. `argmax` is the argmax after noise: the token that this row would emit at its index."""

    def __init__(self, row: Row, sampler: Sampler, index: int, context: Tokens) -> None:
        self._row = row
        self._sampler = sampler
        self._index = index
        self._context = context
        self._token: int | None = None

    def argmax(self) -> int:
        if self._token is None:
            self._token = self._sampler.pick(self._row.numpy(), self._index, self._context)
        return self._token

    def numpy(self) -> Logits:
        return self._row.numpy()


class KeyedRound:
    """`round` for a drafter: its drafts are sampled with the noise of the answer's tokens from `index` on.

    A draft is accepted when it equals the target's own sample, so the output stays that of plain decoding
    (the ratio rule of arXiv 2211.17192 keeps the distribution only).
    """

    def __init__(self, round: Round, sampler: Sampler, index: int, context: Tokens) -> None:
        self._round = round
        self._sampler = sampler
        self._index = index
        self._context = sampler.looks_back(context, index)[:-1]

    def draft(self, token: TokenLike) -> Row:
        token = as_id(token)
        return self.keyed(token, self._round.draft(token))

    def keyed(self, token: int, row: Row) -> Row:
        """`row`, which any model gave after the newest draft `token`, with the noise of its index."""
        self._context = [*self._context, token]
        self._index += 1
        return KeyedRow(row, self._sampler, self._index - 1, self._context)

    def verify(self, tokens: Sequence[TokenLike], n_rows: int | None = None) -> Sequence[Row]:
        return self._round.verify([as_id(token) for token in tokens], n_rows)

    def commit(self, n: int) -> None:
        self._round.commit(n)

    def rollback(self) -> None:
        self._round.rollback()
