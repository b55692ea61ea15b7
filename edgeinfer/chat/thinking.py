"""The trace of a thinking model, told apart from its answer while both stream."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgeinfer.chat.stop import tail_that_may_become


@dataclass(frozen=True, slots=True)
class Segment:
    text: str
    thinking: bool


def begins_inside(rendered: str, tags: tuple[str, str]) -> bool:
    """Whether a prompt ends inside a trace, as templates do that write the opening tag themselves."""
    opening, closing = tags
    return rendered.rfind(opening) > rendered.rfind(closing)


class ThinkingSplitter:
    """Feed text, get segments; the tags are in none of them, nor is the space that follows a trace."""

    def __init__(self, tags: tuple[str, str], *, inside: bool) -> None:
        self._tags = tags
        self._held = ""
        self._skip_space = False
        self.inside = inside

    def feed(self, text: str) -> Iterator[Segment]:
        text = self._held + text
        self._held = ""
        while text:
            tag = self._tags[1] if self.inside else self._tags[0]
            before, found, text = text.partition(tag)
            if not found:
                n_held = tail_that_may_become(before, (tag,))
                self._held = before[len(before) - n_held :]
                before = before[: len(before) - n_held]
            yield from self._segment(before)
            if found:
                self.inside = not self.inside
                self._skip_space = True

    def finish(self) -> Iterator[Segment]:
        held, self._held = self._held, ""
        yield from self._segment(held)

    def _segment(self, text: str) -> Iterator[Segment]:
        if self._skip_space:
            text = text.lstrip()
        if text:
            self._skip_space = False
            yield Segment(text, self.inside)
