"""What a request asks for, whatever its protocol."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from edgeinfer.types import Message, Sampling, Tokens, Tool

MAX_TOKENS = 2048  # of an answer if the request sets no limit: a small model can repeat itself without end
ToolChoice: TypeAlias = Literal["auto", "none", "required"]


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
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    one_call: bool = False  # the answer ends with the first call of a tool
    schema: Mapping[str, Any] | None = None  # of the JSON that the answer must be
    schema_parameter: str = ""  # where the request names it

    @property
    def may_call(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"
