"""What an answer must look like, as the decoder sees it: which tokens may follow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgeinfer.types import Logits

__all__ = ["Constraint"]


class Constraint(Protocol):
    """Follows one answer token by token. Its state depends on the tokens that were accepted, and on nothing else.

    So a masked row is the same however the row was come by, and drafting changes no token of a constrained answer.
    """

    def masked(self, row: Logits) -> Logits:
        """`row` [V] with -inf for each token that may not follow. `row` itself is not changed."""
        ...

    def accept(self, token: int) -> None:
        """The answer continues with `token`, which the mask allowed."""
        ...

    def forced(self) -> Sequence[int]:
        """Tokens that are likely to follow because little else may. They are drafts: the rows still decide."""
        ...
