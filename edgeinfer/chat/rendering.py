"""The text of a conversation that grows, and where its messages end in it.

A short conversation is rendered whole. A long one is rendered in windows that are joined, and a turn renders only the
window of its newest messages. Windows overlap. Where two of them differ in what both hold, the template looks further
back than a window, and the whole conversation is rendered.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeinfer.chat.frames import Frames, learn_frames, n_same
from edgeinfer.chat.template import Template
from edgeinfer.errors import ArtifactError, UsageError
from edgeinfer.types import Message, compact

WHOLE = 64  # messages that are always rendered together, and the messages of a window
MOST_FRAMES = 32  # sets of variables, such as the tools of a request, for which frames are remembered
OVERLAP = 4  # messages that two neighboring windows share


@dataclass(frozen=True, slots=True)
class Written:
    """`ends[n]` is where the first n messages end in `text`; -1 where that is not known.

    By the number of messages before the first question, it is where that question begins.
    """

    messages: tuple[Message, ...]
    text: str
    ends: array[int]


NOTHING = Written((), "", compact([-1]))


class ConversationWriter:
    """Renders a conversation turn by turn."""

    def __init__(self, template: Template) -> None:
        self._template = template
        self._frames: dict[str, Frames] = {}  # by the variables
        self._last = NOTHING
        self._is_local = True

    def fresh(self) -> ConversationWriter:
        """A writer that keeps what this one has learned about the template, and no conversation."""
        other = ConversationWriter(self._template)
        other._frames = self._frames
        return other

    def frames(self, variables: Mapping[str, Any]) -> Frames:
        key = repr(sorted(variables.items()))
        if key not in self._frames:
            if len(self._frames) >= MOST_FRAMES:
                del self._frames[next(iter(self._frames))]
            self._frames[key] = learn_frames(self._template, variables)
        return self._frames[key]

    def write(self, messages: Sequence[Message], variables: Mapping[str, Any]) -> Written:
        """Raises UsageError when the template refuses the conversation, ArtifactError when it cannot be used."""
        messages = tuple(messages)
        written = None
        if len(messages) > WHOLE and self._is_local:
            written = self._in_windows(messages, variables)
            self._is_local = written is not None
        if written is None:
            text = self._template.render(messages, variables)
            written = self._located(messages, text, variables)
        self._last = written
        return written

    def _in_windows(self, messages: tuple[Message, ...], variables: Mapping[str, Any]) -> Written | None:
        """None where windows cannot be joined."""
        n_lead = n_before_question(messages)
        known = self._last
        if n_same_messages(known.messages, messages) <= n_lead or known.ends[n_lead] < 0:
            known = NOTHING
        while True:
            begin = self._window_begin(known, messages, n_lead)
            end = window_end(messages, begin)
            if begin is None or end is None:
                return None
            part = (*messages[:n_lead], *messages[begin:end])
            try:
                window = self._located(part, self._template.render(part, variables), variables)
            except (UsageError, ArtifactError):  # a part may fail where the whole does not
                return None
            joined = join(known, window, messages[:end], begin, n_lead)
            if joined is None and known is self._last:
                known = NOTHING  # the history was rendered differently: render it again
                continue
            if joined is None or joined.ends[n_lead] < 0:
                return None
            known = joined
            if end == len(messages):
                return known

    def _window_begin(self, known: Written, messages: tuple[Message, ...], n_lead: int) -> int | None:
        """The index of the question with which the next window begins. The text before it is known."""
        same = n_same_messages(known.messages, messages)
        if same <= n_lead:
            return n_lead
        for n in range(max(n_lead, same - OVERLAP), max(n_lead, same - WHOLE // 2) - 1, -1):
            if messages[n].role == "user" and known.ends[n] >= 0:
                return n
        return None

    def _located(self, messages: tuple[Message, ...], text: str, variables: Mapping[str, Any]) -> Written:
        ends = known_ends(self._last, messages, text)
        at = max(0, *ends)
        frames = self.frames(variables)
        for n in range(n_before_question(messages), len(messages)):
            frame = frames.of(messages[n])
            if ends[n + 1] >= 0 or frame is None:
                continue
            place = frame.places(text, messages[n].content, at)
            if place is None or (ends[n] >= 0 and place[0] != ends[n]):
                continue
            ends[n], ends[n + 1] = place
            at = place[1]
        return Written(messages, text, ends)


def join(known: Written, window: Written, messages: tuple[Message, ...], begin: int, n_lead: int) -> Written | None:
    """The known text up to `begin`, then the window's; None if they do not agree."""
    if begin == n_lead:
        return Written(messages, window.text, window.ends)
    cut, lead = known.ends[begin], window.ends[n_lead]
    if lead < 0 or window.text[:lead] != known.text[: known.ends[n_lead]]:
        return None
    shift = begin - n_lead
    for n in range(begin + 2, n_same_messages(known.messages, messages), 2):
        old, new = known.ends[n], window.ends[n - shift]
        if old < 0 or new < 0 or known.text[cut:old] != window.text[lead:new]:
            return None
    moved = [end - lead + cut if end >= 0 else -1 for end in window.ends[n_lead + 1 :]]
    ends = known.ends[: begin + 1] + compact(moved)
    return Written(messages, known.text[:cut] + window.text[lead:], ends)


def window_end(messages: Sequence[Message], begin: int | None) -> int | None:
    """The index after the last question that fits a window."""
    if begin is None:
        return None
    for end in range(min(len(messages), begin + WHOLE), begin + OVERLAP, -1):
        if messages[end - 1].role == "user":
            return end
    return None


def known_ends(known: Written, messages: Sequence[Message], text: str) -> array[int]:
    """The ends in `known` that hold for `text` too; -1 for the others."""
    n = n_same_messages(known.messages, messages)
    same = n_same(known.text, text) if n else 0
    kept = compact([end if end <= same else -1 for end in known.ends[: n + 1]])
    return kept + compact([-1] * (len(messages) + 1 - len(kept)))


def n_before_question(messages: Sequence[Message]) -> int:
    return 1 if messages[0].role == "system" else 0


def n_same_messages(old: Sequence[Message], new: Sequence[Message]) -> int:
    return next((n for n, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
