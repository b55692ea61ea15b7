"""What a request asks for, in whatever protocol it came."""

from __future__ import annotations

from dataclasses import dataclass

from edgeinfer.types import Message, Sampling, Tokens

MAX_TOKENS = 2048  # of an answer, where the request names no limit: a small model can repeat itself without end


@dataclass(frozen=True, slots=True)
class Generation:
    """Either `messages`, to be answered, or `raw`, to be continued without a chat template."""

    sampling: Sampling
    messages: tuple[Message, ...] = ()
    raw: str | Tokens = ""
    max_tokens: int = MAX_TOKENS
    stop: tuple[str, ...] = ()
    thinking: bool = True
    think_budget: int | None = None  # tokens of reasoning; None: no limit
    n_answers: int = 1  # the seed of answer i is i higher
    n_top: int | None = None  # alternatives reported with the probability of each token; None: no probabilities
