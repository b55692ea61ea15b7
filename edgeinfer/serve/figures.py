"""Figures that the server adds to each answer, in every protocol."""

from __future__ import annotations

from edgeinfer.decode.stats import AnswerStats
from edgeinfer.serve.served import ServedModel

__all__ = ["figures"]


def figures(stats: AnswerStats, served: ServedModel) -> dict[str, object]:
    """What the window kept and lost, what speculation gave, and whether the tokens are those of plain decoding."""
    return {
        "reused": stats.reused,
        "kept": stats.kept,
        "evicted": stats.evicted,
        "reanchored": stats.reanchored,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "arms": [name for name, arm in stats.arms.items() if arm.drafted],
        "exact": served.exact,
        "first_token_s": round(stats.first_token_s, 4),
        "tokens_per_s": round(stats.tokens_per_s, 2),
    }
