"""Answers as streams of bytes, and what happens when the reader leaves or does not read."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from edgeinfer.serve.answering import Answering, Whole

__all__ = ["AnswerResponse", "GoneError", "as_json", "event", "reply", "unless_gone"]

EVENTS: Final = "text/event-stream"
SLOW_READER_S: Final = 30.0  # a reader that takes nothing for this long, or for up to twice as long, has left

T = TypeVar("T")


class GoneError(Exception):
    """The client has closed the connection."""


def as_json(value: Mapping[str, object]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def event(data: str, *, name: str = "") -> bytes:
    """A server-sent event of one line of data."""
    return (f"event: {name}\n" if name else "").encode() + f"data: {data}\n\n".encode()


class AnswerResponse(Response):
    """The answers of `answering` as `body`. They end when the reader leaves, or takes nothing for up to a minute.

    The engine does not wait for the reader: what it has written waits in memory, and is bounded by the answer's length.
    """

    def __init__(self, answering: Answering, body: AsyncIterator[bytes], media_type: str = EVENTS) -> None:
        super().__init__(media_type=media_type, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._answering = answering
        self._body = body
        self._n_sent = 0  # messages, the one in sending included
        self._in_sending = 0  # the number of the message that waits for the reader; 0: none does

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        del scope
        writing = asyncio.ensure_future(self._write(send))
        left = asyncio.ensure_future(gone(receive))
        try:
            await self._until_one_ends(writing, left)
            if writing.done():
                writing.result()
        finally:
            self._answering.cancel()
            writing.cancel()
            left.cancel()

    async def _write(self, send: Send) -> None:
        await self._send(send, {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for data in self._body:
            await self._send(send, {"type": "http.response.body", "body": data, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, message: Message) -> None:
        self._n_sent += 1
        self._in_sending = self._n_sent
        await send(message)
        self._in_sending = 0

    async def _until_one_ends(self, *tasks: asyncio.Future[None]) -> None:
        """Or until one message has waited for the reader from one look to the next."""
        seen = 0
        while not (await asyncio.wait(tasks, timeout=SLOW_READER_S, return_when=asyncio.FIRST_COMPLETED))[0]:
            if self._in_sending and self._in_sending == seen:
                return  # uvicorn closes the connection of a response that has not ended
            seen = self._in_sending


async def reply(
    request: Request,
    answering: Answering,
    whole: Callable[[Sequence[Whole]], Mapping[str, object]],
    pieces: Callable[[Answering], AsyncIterator[bytes]],
    *,
    streamed: bool | None,
    media_type: str = EVENTS,
) -> Response:
    """Answers in a protocol's own words: as a stream, or as one object. They are canceled when the client leaves."""
    if streamed:
        return AnswerResponse(answering, pieces(answering), media_type)
    try:
        return JSONResponse(whole(await unless_gone(request, answering.whole())))
    finally:
        answering.cancel()


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is canceled with GoneError when the client leaves before."""
    task = asyncio.ensure_future(work)
    left = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({task, left}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise GoneError
        return task.result()
    finally:
        for one in (task, left):
            one.cancel()


async def gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
