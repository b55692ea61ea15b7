"""Drafting with the model's own early layers at a fixed depth: no row need visit the host before the verification."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.protocols import Round, TokenLike
from edgeinfer.types import Tokens


class EarlyExit:
    """Self-speculation (LayerSkip, arXiv 2404.16710): each draft is the exit's guess after the one before."""

    name = "early-exit"

    def propose(self, round: Round, context: Tokens, limit: int) -> Sequence[TokenLike]:
        drafts: list[TokenLike] = []
        token: TokenLike = context[-1]
        for _ in range(limit):
            token = round.draft(token)
            drafts.append(token)
        return drafts

    def observe(self, emitted: Tokens) -> None:
        del emitted
