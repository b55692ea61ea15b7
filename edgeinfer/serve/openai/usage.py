"""What an answer cost, as OpenAI counts it and as this engine does."""

from __future__ import annotations

from edgeinfer.decode.stats import AnswerStats
from edgeinfer.serve.served import ServedModel

__all__ = ["figures", "usage"]


def usage(stats: AnswerStats, n_prompt: int, n_tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_tokens,
        "total_tokens": n_prompt + n_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.reused, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def figures(stats: AnswerStats, served: ServedModel) -> dict[str, object]:
    """What the window kept and lost, what speculation gave, and whether the tokens are those of plain decoding."""
    return {
        "reused": stats.reused,
        "kept": stats.kept,
        "evicted": stats.evicted,
        "reanchored": stats.reanchored,
        "drafted": stats.drafted,
        "accepted": stats.accepted,
        "exact": served.exact,
        "first_token_s": round(stats.first_token_s, 4),
        "tokens_per_s": round(stats.tokens_per_s, 2),
    }
