"""The protocol of a constraint on an answer, such as a JSON schema: which tokens may follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgeinfer.types import Logits

__all__ = ["Constraint"]


class Constraint(Protocol):
    """Follows one answer token by token. Its state depends only on the tokens that were accepted.

    So a masked row is the same with and without drafts, and drafting changes no token of a constrained answer.
    """

    def masked(self, row: Logits) -> Logits:
        """`row` [V] with -inf for each token that may not follow. `row` itself is not changed."""
        ...

    def accept(self, token: int) -> None:
        """The answer continues with `token`, which the mask allowed."""
        ...

    def forced(self) -> Sequence[int]:
        """Tokens that are likely to follow because hardly any other is allowed. They are drafts: the rows still
        decide."""
        ...
