"""What a template does with reasoning, learned from what it writes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeinfer.chat.encoding import MARK_LIKE
from edgeinfer.chat.template import Template
from edgeinfer.chat.trace_formats import THINK, TraceFormat, are_tokens, may_use, mentioned_in
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Message

__all__ = ["NO_THINKING", "Reasoning", "SplitTrace", "learn_reasoning", "split_trace"]

NO_THINKING: Mapping[str, Any] = {
    "enable_thinking": False,
    "thinking": False,
    "reasoning": False,
    "thinking_budget": 0,
    "thinking_mode": "disabled",
}
"""The variables by which templates turn reasoning off."""

ASK, REPLY, THOUGHT = "qaskx", "qreplyx", "qthoughtx"
QUESTION = Message("user", ASK)
_JINJA = re.compile(r"\{[{%].*?[}%]\}", re.DOTALL)
_NAMES_REASONING = re.compile(
    r"\b(?:reasoning|thinking)_\w+|\w+_(?:reasoning|thinking)\b|[.'\"](?:reasoning|thinking)\b"
)


@dataclass(frozen=True, slots=True)
class Reasoning:
    """`formats` are those that an answer may begin with.

    `is_read`: the template takes reasoning apart from the content. `is_controlled`: reasoning can be turned off, as
    the template writes something else then, or the format is known and a trace can be ended.
    """

    formats: tuple[TraceFormat, ...]
    is_read: bool
    is_controlled: bool


@dataclass(frozen=True, slots=True)
class SplitTrace:
    opening: str
    thought: str
    closing: str
    answer: str


def learn_reasoning(template: Template, tokenizer: Tokenizer, tags: tuple[str, str] | None) -> Reasoning:
    """`tags` are the catalog's."""
    thinking = {"enable_thinking": True}
    opened = template.probe((QUESTION,), thinking) or ""
    replied = (QUESTION, Message("assistant", REPLY, reasoning=THOUGHT))
    written = template.probe(replied, thinking, opening=False) or ""
    source = template.source + opened + written
    is_known = tags is not None or any(mentioned_in(source)) or THINK.closings[0] in source
    learned = None if is_known else format_in(written, opened)
    formats = may_use(source, tokenizer, tags)
    if learned is not None:
        formats = (learned, *formats)
    is_controlled = (
        is_known
        or any(known == learned or are_tokens(known.opening, tokenizer) for known in formats)
        or not any(map(_NAMES_REASONING.search, _JINJA.findall(template.source)))
        or template.probe((QUESTION,), NO_THINKING) != opened
    )
    return Reasoning(formats, THOUGHT in written, is_controlled)


def format_in(written: str, opened: str) -> TraceFormat | None:
    """The marks around the thought in `written`, which goes on where `opened` opens the answer; None where there are
    none."""
    before, thought, rest = written.partition(THOUGHT)
    after, reply, _ = rest.partition(REPLY)
    if not (thought and reply):
        return None
    start = before.removeprefix(opened).strip() if before.startswith(opened) else ""
    if not start and (marks := MARK_LIKE.findall(before)) and before.rstrip().endswith(marks[-1]):
        start = marks[-1]  # the template begins the trace itself
    end = after.strip()
    return TraceFormat(start, (end,)) if start and end else None


def split_trace(content: str, formats: Sequence[TraceFormat]) -> SplitTrace | None:
    """A message that begins with a trace, in its parts; None for any other."""
    words = content.lstrip()
    for known in formats:
        if not words.startswith(known.opening):
            continue
        for closing in known.closings:
            thought, found, answer = words[len(known.opening) :].partition(closing)
            if found:
                return SplitTrace(known.opening, thought, closing, answer)
    return None
