"""The target's own tokens: what an answer takes from the rows of the whole model, whatever was drafted."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from edgeinfer.decode.constraint import Constraint
from edgeinfer.decode.keyed import KeyedRound
from edgeinfer.decode.sampler import Sampler
from edgeinfer.protocols import Round, Row
from edgeinfer.types import Tokens

__all__ = ["Target"]


@dataclass(frozen=True, slots=True)
class Target:
    """Sampling, constraint and limits of one answer.

    `emitted` is the number of tokens that the answer has so far. It keys the noise of the next one.
    """

    sampler: Sampler
    stop_tokens: frozenset[int]
    max_tokens: int
    first_index: int  # index in the answer of the first token, for an answer that is continued
    constraint: Constraint | None

    def left(self, emitted: int) -> int:
        """Tokens that the answer may still have."""
        return self.max_tokens - emitted

    def pick(self, row: Row, context: Tokens, emitted: int, ahead: int = 0) -> int:
        """The token of `row`, the row after `context`, whose last `ahead` tokens are of this round. The constraint
        accepts it."""
        constraint = self.constraint
        if constraint is None and self.sampler.greedy:
            return row.argmax()
        logits = row.numpy() if constraint is None else constraint.masked(row.numpy())
        token = self.sampler.pick(logits, self.first_index + emitted + ahead, context)
        if constraint is not None:
            constraint.accept(token)
        return token

    def verify(self, rows: Sequence[Row], drafts: Sequence[int], context: array[int], emitted: int) -> list[int]:
        """The token of each row while the row before it matched its draft, cut after the last token of the answer.

        Appends them to `context`.
        """
        tokens: list[int] = []
        for row, draft in zip(rows, [*drafts, None], strict=True):
            token = self.pick(row, context, emitted, len(tokens))
            tokens.append(token)
            context.append(token)
            if token != draft or token in self.stop_tokens or len(tokens) == self.left(emitted):
                break
        return tokens

    def drafting(self, round: Round, context: Tokens, emitted: int) -> Round:
        """`round` for a drafter. When sampled, its drafts have the noise of the tokens that they stand for."""
        return round if self.sampler.greedy else KeyedRound(round, self.sampler, self.first_index + emitted, context)

    def forced(self, limit: int) -> Sequence[int]:
        """At most `limit` drafts where the constraint allows hardly any other token."""
        return self.constraint.forced()[:limit] if self.constraint is not None and limit > 0 else ()
