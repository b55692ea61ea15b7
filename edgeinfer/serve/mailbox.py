"""Passes events of answers from the engine thread to the server's event loop, with text once per frame."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, TypeAlias

from edgeinfer.chat.thinking import Segment
from edgeinfer.serve.engine.job import Event, Written
from edgeinfer.serve.engine.text import Part

__all__ = ["Letter", "Mailbox", "joined"]

Letter: TypeAlias = tuple[int, Event]
"""The index of an answer in its request, and what happened to it."""

FRAME_S: Final = 1 / 30  # more messages than can be read would only take processor time from decoding


class Mailbox:
    """Takes events in the engine's thread, gives them to one reader in the event loop.

    The first text comes at once, the text after it once a frame. All mailboxes of a loop have the same frames, so the
    loop wakes once for all of them. Every other event comes at once, with the text before it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._letters: deque[Letter] = deque()
        self._wake = asyncio.Event()
        self._text_wakes = True
        self._urgent = False  # something other than text has come
        self._frame_ends_s = 0.0  # by the loop's clock

    def post(self, index: int, event: Event) -> None:
        """Called by the engine thread."""
        self._letters.append((index, event))
        urgent = not isinstance(event, Written)
        self._urgent |= urgent
        if urgent or self._text_wakes:
            self._text_wakes = False
            with contextlib.suppress(RuntimeError):  # the loop is closed, so there is no reader
                self._loop.call_soon_threadsafe(self._wake.set)

    async def take(self) -> Sequence[Letter]:
        """Wait for the end of the frame in which text was taken, then for a letter. All that have come, in order."""
        await self._end_of_frame()
        while not self._letters:
            self._wake.clear()
            self._text_wakes = True
            if not self._letters:  # none came before the engine could see that text wakes
                await self._wake.wait()
        self._text_wakes = self._urgent = False
        taken = [self._letters.popleft() for _ in range(len(self._letters))]
        if any(isinstance(event, Written) for _, event in taken):
            self._frame_ends_s = FRAME_S * (self._loop.time() // FRAME_S + 1)
        return taken

    async def _end_of_frame(self) -> None:
        if self._urgent or self._loop.time() >= self._frame_ends_s:
            return
        self._wake.clear()
        timer = self._loop.call_at(self._frame_ends_s, self._wake.set)
        try:
            if not self._urgent:  # as above
                await self._wake.wait()
        finally:
            timer.cancel()


def joined(letters: Iterable[Letter]) -> list[Letter]:
    """The same, with texts of an answer that follow each other as one. Those with log probabilities stay apart."""
    found: list[Letter] = []
    for index, event in letters:
        before = found[-1] if found else None
        if (
            before is not None
            and before[0] == index
            and isinstance(event, Written)
            and isinstance(before[1], Written)
            and not (event.logprobs or before[1].logprobs)
        ):
            found[-1] = index, Written(joined_parts((*before[1].parts, *event.parts)), n_tokens=event.n_tokens)
        else:
            found.append((index, event))
    return found


def joined_parts(parts: Iterable[Part]) -> tuple[Part, ...]:
    found: list[Part] = []
    for part in parts:
        before = found[-1] if found else None
        if isinstance(part, Segment) and isinstance(before, Segment) and part.thinking == before.thinking:
            found[-1] = Segment(before.text + part.text, part.thinking)
        else:
            found.append(part)
    return tuple(found)
