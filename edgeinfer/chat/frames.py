"""What a template writes around a message, learned from small conversations that it renders.

With that, every message can be found in a rendered text by searching, however long the conversation is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgeinfer.chat.encoding import MARK_LIKE
from edgeinfer.chat.template import Template
from edgeinfer.formats.chat_pieces import Frame, TraceFormat
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Message

__all__ = ["CLOSERS", "Frame", "Frames", "SystemPrompt", "learn_frames", "n_same", "shared_start"]

RULE, ASK, REPLY, ASK_AGAIN, REPLY_AGAIN, LAST = "qrulex", "qaskxa", "qreplyxa", "qaskxb", "qreplyxb", "qaskxc"
TALK = (
    Message("user", ASK),
    Message("assistant", REPLY),
    Message("user", ASK_AGAIN),
    Message("assistant", REPLY_AGAIN),
    Message("user", LAST),
)
OPENERS, CLOSERS = ("<", "["), (">", "]")

SystemPrompt = Literal["first", "moves", "dropped", "refused"]
"""Where a template puts the system prompt: before the first question, elsewhere, nowhere; or it refuses one."""


@dataclass(frozen=True, slots=True)
class Frames:
    """`user` and `assistant` are None if the template writes the same message in more than one way.

    `writes_all`: no message of a short conversation is missing in its text.
    """

    system: SystemPrompt
    user: Frame | None
    assistant: Frame | None
    writes_all: bool = True

    def stops(self, tokenizer: Tokenizer, traces: Sequence[TraceFormat]) -> tuple[str, ...]:
        """Text that ends an answer: everything before the next question, or a mark that is not a control token."""
        if self.user is None or self.assistant is None:
            return ()
        after, before = self.assistant.after, self.user.before
        if all(map(tokenizer.piece, tokenizer.encode(after + before, special=True))):
            text = after.strip() or before.strip()
            return (text,) if text else ()
        mark = MARK_LIKE.match(after.lstrip())
        if mark is None or any(mark[0] in trace.marks for trace in traces):
            return ()
        return (mark[0],) if all(map(tokenizer.piece, tokenizer.encode(mark[0], special=True))) else ()

    def stop_tokens(self, tokenizer: Tokenizer, traces: Sequence[TraceFormat]) -> frozenset[int]:
        """Control tokens that the template writes only between an answer and the next question.

        A file may name another end token, or none.
        """
        if self.user is None or self.assistant is None:
            return frozenset()
        inside = self.assistant.before + "".join(trace.marks for trace in traces)
        between = control_tokens(self.assistant.after + self.user.before, tokenizer)
        return between - control_tokens(inside, tokenizer)

    def of(self, message: Message) -> Frame | None:
        if message.tool_calls:  # a template writes them in its own way
            return None
        return {"user": self.user, "assistant": self.assistant}.get(message.role)


def learn_frames(template: Template, variables: Mapping[str, Any] | None = None) -> Frames:
    plain = template.probe(TALK, variables)
    gaps = None if plain is None else gaps_between(plain, [message.content for message in TALK])
    if plain is None or gaps is None or gaps[1] != gaps[3]:
        is_missing = plain is not None and gaps is None
        return Frames(where_system_goes(template, variables), None, None, writes_all=not is_missing)
    after_ask, after_reply = gaps[1], gaps[2]
    asked = template.probe(TALK[:3], variables, opening=False)
    if asked is None or asked == template.probe(TALK[:3], variables):
        user_after = ""  # every answer is opened, so what closes the question cannot be separated from that opening
    else:
        user_after = shared_start(tail_of(asked, ASK_AGAIN), after_ask)
    replied = template.probe(TALK[:4], variables, opening=False)
    reply_after = shared_start(user_after if replied is None else tail_of(replied, REPLY_AGAIN), after_reply)
    return Frames(
        where_system_goes(template, variables),
        Frame(after_reply[len(reply_after) :], user_after),
        Frame(after_ask[len(user_after) :], reply_after),
    )


def where_system_goes(template: Template, variables: Mapping[str, Any] | None) -> SystemPrompt:
    text = template.probe([Message("system", RULE), *TALK], variables)
    if text is None:
        return "first" if template.probe(TALK, variables) is None else "refused"
    if RULE not in text:
        return "dropped"
    return "first" if text.find(RULE) < text.find(ASK) else "moves"


def control_tokens(text: str, tokenizer: Tokenizer) -> frozenset[int]:
    return frozenset(token for token in tokenizer.encode(text, special=True) if not tokenizer.piece(token))


def gaps_between(text: str, contents: Sequence[str]) -> list[str] | None:
    """The text before, between and after the contents; None if they do not all appear in order."""
    gaps: list[str] = []
    rest = text
    for content in contents:
        gap, found, rest = rest.partition(content)
        if not found:
            return None
        gaps.append(gap)
    return [*gaps, rest]


def tail_of(text: str, content: str) -> str:
    return text.rpartition(content)[2]


def shared_start(one: str, other: str) -> str:
    """The common beginning of both, without half a mark at its end: `<|end|><|user|>` and `<|end|><|eot|>` share
    `<|end|>`."""
    common = one[: n_same(one, other)]
    if common in (one, other):
        return common
    opened = max(common.rfind(opener) for opener in OPENERS)
    closed = max(common.rfind(closer) for closer in CLOSERS)
    return common[:opened] if opened > closed else common


def n_same(a: str, b: str) -> int:
    """Length of the common beginning, by bisection: comparing slices is quicker than comparing characters."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
