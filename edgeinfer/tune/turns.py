"""The token ids that a chat template writes around messages, found by rendering two short conversations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from edgeinfer.errors import UsageError
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Message

__all__ = ["Turns", "find_turns"]

_FIRST, _ANSWER, _SECOND = "marigold", "juniper", "hawthorn"  # texts that occur in no template
_HINT: Final = "`edgeinfer tune --data FILE` teaches on your conversations"


@dataclass(frozen=True, slots=True)
class Turns:
    """The token ids around messages, as the model's chat template writes them."""

    opening: tuple[int, ...]  # the start of the text, up to the first message of the user
    to_assistant: tuple[int, ...]  # after the end of a user's message, up to the answer
    to_user: tuple[int, ...]  # after the end of an answer, up to the next message
    end: int  # the token that ends a turn


def find_turns(render: Callable[[Sequence[Message]], str], tokenizer: Tokenizer) -> Turns:
    """Raises UsageError for a template whose turns do not end in one stop token, which its model could not write."""
    one = render([Message("user", _FIRST)])
    two = render([Message("user", _FIRST), Message("assistant", _ANSWER), Message("user", _SECOND)])
    if not (one.count(_FIRST) == 1 and all(two.count(word) == 1 for word in (_FIRST, _ANSWER, _SECOND))):
        raise UsageError("the chat template does not repeat messages as they are", hint=_HINT)
    opening, to_assistant = one.split(_FIRST)
    to_user = two.split(_ANSWER)[1].split(_SECOND)[0]
    end, assistant_head = _after_end(to_assistant, tokenizer)
    _, user_head = _after_end(to_user, tokenizer)
    return Turns(tuple(tokenizer.encode(opening, special=True)), assistant_head, user_head, end)


def _after_end(text: str, tokenizer: Tokenizer) -> tuple[int, tuple[int, ...]]:
    """The token that ends the turn, and those that the template writes after it."""
    first, *rest = tokenizer.encode(text, special=True) or [-1]
    if first not in tokenizer.stop_tokens:
        raise UsageError(f"the chat template ends a turn with {text[:20]!r}, which is no stop token", hint=_HINT)
    return first, tuple(rest)
