"""The rules of a round for every backend: drafts, then one verify, then its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeinfer.errors import EngineError, UsageError
from edgeinfer.protocols import Ask, Row, TokenLike

if TYPE_CHECKING:
    from edgeinfer.types import Logits


def run_in_turn(asks: Sequence[Ask]) -> list[Sequence[Row]]:
    """`Model.run` of a backend that cannot batch: one ask after the other. Rows must outlive the next ask's forward."""
    return [ask.round.verify(ask.tokens, ask.n_rows) for ask in asks]


def check_tokens(asks: Sequence[Ask], n_vocab: int) -> None:
    """Raises UsageError for an id outside [0, n_vocab). Called before any ask begins, so that the others can run."""
    for ask in asks:
        check_ids(ask.tokens, n_vocab)


def check_ids(tokens: Sequence[TokenLike], n_vocab: int) -> None:
    for token in tokens:
        if isinstance(token, int) and not 0 <= token < n_vocab:
            raise UsageError(f"token {token} is outside the vocabulary of {n_vocab}")


class HeldRow:
    """See protocols.Row. The row owns `logits` [V]: no later forward overwrites them."""

    __slots__ = ("_logits",)

    def __init__(self, logits: Logits) -> None:
        self._logits = logits

    def argmax(self) -> int:
        return int(self._logits.argmax())

    def numpy(self) -> Logits:
        return self._logits


class RoundGuard:
    """The counts of one round: at most `max_rows` rows, and drafts. What a round does not allow raises EngineError."""

    __slots__ = ("_asked", "_max_drafts", "_max_rows", "_open", "n_verified")

    def __init__(self, max_rows: int, max_drafts: int | None = None) -> None:
        self.n_verified = 0  # set by the round, after its engine has run these tokens
        self._max_rows = max_rows
        self._max_drafts = max_rows if max_drafts is None else min(max_rows, max_drafts)
        self._open = True
        self._asked = False

    def draft(self, n_before: int) -> None:
        """Checks that a draft may follow `n_before` others."""
        if not self._open or self._asked or n_before >= self._max_drafts:
            raise EngineError(
                f"draft of row {n_before}: a round drafts before it verifies, {self._max_drafts} rows at most"
            )

    def verify(self, n: int, n_rows: int | None) -> int:
        """Checks that `n` tokens may be run, and returns how many of their rows are wanted."""
        wanted = n if n_rows is None else n_rows
        if not self._open or self._asked or not 1 <= n <= self._max_rows:
            raise EngineError(f"verify of {n} rows: a round verifies once, 1 to {self._max_rows} rows")
        if not 0 <= wanted <= n:
            raise EngineError(f"{wanted} rows of {n} tokens are wanted: 0 to {n} are possible")
        self._asked = True
        return wanted

    def commit(self, n: int) -> None:
        """Checks that `n` rows may be kept, and ends the round."""
        if not self._open or not 0 <= n <= self.n_verified:
            raise EngineError(f"commit of {n} rows in a round of {self.n_verified} verified ones")
        self._open = False

    def end(self) -> bool:
        """Ends the round, and returns whether it was open."""
        was_open, self._open = self._open, False
        return was_open
