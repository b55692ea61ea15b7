"""Stop strings: text is held back while it could still become one."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.errors import UsageError


def tail_that_may_become(text: str, words: Sequence[str]) -> int:
    """Length of the longest end of `text` that is a proper beginning of one of `words`."""
    longest = min(len(text), max((len(word) for word in words), default=0) - 1)
    for n in range(longest, 0, -1):
        if any(word.startswith(text[-n:]) and len(word) > n for word in words):
            return n
    return 0


class StopStrings:
    """Passes text on up to the first stop string, which is not passed on. `found` is that string, once `stopped`."""

    def __init__(self, stops: Sequence[str]) -> None:
        if any(not stop for stop in stops):
            raise UsageError("a stop string must not be empty", hint="without it an answer ends as the model ends it")
        self._stops = tuple(stops)
        self._held = ""
        self.stopped = False
        self.found = ""

    def feed(self, text: str) -> str:
        if self.stopped:
            return ""
        if not self._stops:
            return text
        text = self._held + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            place, self.found = min(found)
            self.stopped = True
            self._held = ""
            return text[:place]
        n_held = tail_that_may_become(text, self._stops)
        self._held = text[len(text) - n_held :]
        return text[: len(text) - n_held]

    def finish(self) -> str:
        held, self._held = self._held, ""
        return held
