"""The reasoning of a model, separated from its answer while both stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeinfer.chat.stop import tail_that_may_become
from edgeinfer.chat.trace_formats import TraceFormat


@dataclass(frozen=True, slots=True)
class Segment:
    text: str
    thinking: bool


class ThinkingSplitter:
    """Feed text, get segments. They contain neither the tags nor the space that follows a trace.

    A trace begins only before the first words of the answer. After that, a tag is part of what the model says.
    `inside` is the open trace.
    """

    def __init__(self, formats: Sequence[TraceFormat], *, inside: TraceFormat | None = None) -> None:
        self._formats = tuple(formats)
        self._not_shown = tuple(mark for known in formats for mark in (*known.before_answer, *known.closings))
        self._starts = tuple(known.opening for known in formats) + self._not_shown
        self._held = ""
        self._begun = False  # the open trace has words
        self._marked = inside is not None  # a mark came before the answer
        self._answering = False
        self.inside = inside

    def feed(self, text: str) -> Iterator[Segment]:
        text, self._held = self._held + text, ""
        while text:
            if self._answering:
                yield Segment(text, thinking=False)
                return
            if self.inside:
                before, text = self._until_closing(text, self.inside)
                yield from self._trace(before)
            else:
                text = self._before_answer(text)

    def finish(self) -> Iterator[Segment]:
        held, self._held = self._held, ""
        if self.inside:
            yield from self._trace(held)
        elif text := held.lstrip() if self._marked else held:
            yield Segment(text, thinking=False)

    def _until_closing(self, text: str, trace: TraceFormat) -> tuple[str, str]:
        """The part of the trace that is certain, and the text after it."""
        found = [(at, -len(mark)) for mark in trace.closings if (at := text.find(mark)) >= 0]
        if found:
            at, length = min(found)
            self.inside = None
            return text[:at], text[at - length :]
        n_held = tail_that_may_become(text, trace.closings)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held], ""

    def _before_answer(self, text: str) -> str:
        """The text left to read, after a mark was taken from it or the answer was found to begin."""
        words = text.lstrip()
        for known in self._formats:
            if words.startswith(known.opening):
                self.inside = known
                self._begun, self._marked = False, True
                return words[len(known.opening) :]
        for mark in self._not_shown:
            if words.startswith(mark):
                self._marked = True
                return words[len(mark) :]
        if not words or any(start.startswith(words) for start in self._starts):
            self._held = text
            return ""
        self._answering = True
        return words if self._marked else text

    def _trace(self, text: str) -> Iterator[Segment]:
        text = text if self._begun else text.lstrip()
        if text:
            self._begun = True
            yield Segment(text, thinking=True)
