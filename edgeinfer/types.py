"""Values that every layer shares. No behavior, no engine."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

if TYPE_CHECKING:  # numpy is heavy: `edgeinfer --help` must not pay for it
    import numpy as np
    import numpy.typing as npt

    Logits: TypeAlias = npt.NDArray[np.float32]  # [V]

Tokens: TypeAlias = Sequence[int]
Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
ValueType: TypeAlias = Literal["f32", "f16", "q8_0", "q4_0"]
KvType: TypeAlias = ValueType | Literal["q8_0/f16"]
"""How K and V are kept: one type for both, or that of K, a slash and that of V."""
MIXED: Final = "q8_0/f16"
KV_CHOICES: Final[tuple[KvType, ...]] = ("f32", "f16", MIXED, "q8_0", "q4_0")
DraftsWith: TypeAlias = Literal["", "early-exit", "exit", "feature"]
"""The drafter of `Round.draft` by name; "": the model does not draft."""
SpeculationMode: TypeAlias = str
""""auto", "off" or the name of a drafter; `edgeinfer.decode.drafters` has the list."""


def compact(tokens: Tokens = ()) -> array[int]:
    """A copy that takes 4 bytes a token, for a conversation that is kept; a list takes 40."""
    return array("i", tokens)


def common_prefix(left: Tokens, right: Tokens) -> int:
    """How many tokens at the front of both are the same."""
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def of_k_and_v(kv_type: KvType) -> tuple[ValueType, ValueType]:
    return ("q8_0", "f16") if kv_type == MIXED else (kv_type, kv_type)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model asks for. `arguments` is the text of a JSON object."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Message:
    """A turn. The assistant may call tools; a message of role "tool" is the result of the call `call_id`.

    `reasoning` came before the content. Templates decide whether to write it again.
    """

    role: Role
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    call_id: str = ""
    name: str = ""  # of the tool
    reasoning: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters` is the text of a JSON schema of an object."""

    name: str
    description: str = ""
    parameters: str = '{"type": "object", "properties": {}}'


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a token is chosen. The defaults draw from the model's own distribution, unchanged.

    Only an explicit temperature of 0 is greedy (`GREEDY`). The same seed gives the same tokens.
    """

    temperature: float = 1.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off
    repeat_penalty: float = 1.0  # 1: off
    repeat_last_n: int = 64  # tokens that the penalty looks back on
    presence_penalty: float = 0.0  # 0: off; taken from the logit of a token that the answer has
    frequency_penalty: float = 0.0  # 0: off; the same, for each time that the answer has it
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token, added to its logit); a token at most once
    seed: int = 0


GREEDY: Final = Sampling(temperature=0.0)
"""The most likely token at every step."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a rendered conversation, [n]: not changed while an answer runs.

    `n_system` tokens at the front are the system prompt (kept as sinks); `starts` are the positions where a
    message begins, so that re-anchoring can cut there.
    """

    tokens: Tokens
    n_system: int = 0
    starts: tuple[int, ...] = ()
