"""What an answer cost, as OpenAI counts it."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.decode.stats import AnswerStats
from edgeinfer.serve.answering import Whole
from edgeinfer.serve.engine.job import Ended

__all__ = ["total", "usage"]


def total(answers: Sequence[Whole | Ended]) -> tuple[int, int]:
    """Tokens of all answers, and those of their reasoning."""
    return sum(answer.n_tokens for answer in answers), sum(answer.n_thought for answer in answers)


def usage(stats: AnswerStats, n_prompt: int, n_tokens: int, n_thought: int) -> dict[str, object]:
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_tokens,
        "total_tokens": n_prompt + n_tokens,
        "prompt_tokens_details": {"cached_tokens": stats.reused, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": n_thought,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
