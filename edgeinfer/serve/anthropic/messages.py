"""`POST /v1/messages` and `POST /v1/messages/count_tokens`."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgeinfer.decode.stats import AnswerStats
from edgeinfer.errors import EdgeInferError
from edgeinfer.serve.answering import Answering, Whole
from edgeinfer.serve.anthropic.body import CountBody, MessagesBody
from edgeinfer.serve.anthropic.errors import anthropic_error
from edgeinfer.serve.engine.job import Ended, Finish
from edgeinfer.serve.engine.text import Part
from edgeinfer.serve.figures import figures
from edgeinfer.serve.http.errors import status_of
from edgeinfer.serve.http.reading import read_body
from edgeinfer.serve.http.streams import as_json, event, reply, unless_gone
from edgeinfer.serve.models import Models
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import ToolCall

__all__ = ["count_tokens", "messages"]

EMPTY_TEXT: Final[Mapping[str, object]] = {"type": "text", "text": "", "citations": None}


@dataclass(slots=True)
class MessageWriter:
    """The objects of one message."""

    served: ServedModel
    n_prompt: int
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    _open: str = ""  # the type of the block that is open
    _index: int = -1  # of the newest block
    _n_calls: int = 0

    def message(self, answer: Whole) -> dict[str, object]:
        content: list[dict[str, object]] = []
        if answer.thinking:
            content.append({"type": "thinking", "thinking": answer.thinking, "signature": ""})
        if answer.text or not (answer.calls or answer.thinking):
            content.append({**EMPTY_TEXT, "text": answer.text})
        content += [block_of(call) for call in answer.calls]
        reason = stop_reason(answer.finish, answer.stop_string, len(answer.calls))
        return {
            **self._head(content),
            "stop_reason": reason,
            "stop_sequence": answer.stop_string or None,
            "usage": self._usage(answer.stats, answer.n_tokens, answer.n_thought),
            "edgeinfer": figures(answer.stats, self.served),
        }

    async def events(self, answering: Answering) -> AsyncIterator[bytes]:
        start = {**self._head([]), "stop_reason": None, "stop_sequence": None}
        yield named("message_start", {"message": {**start, "usage": self._usage(AnswerStats(), 0)}})
        yield named("ping", {})
        try:
            async for _, step in answering:
                if isinstance(step, Ended):
                    for one in self._end(step):
                        yield one
                    return
                for part in step.parts:
                    for one in self._part(part):
                        yield one
        except EdgeInferError as error:
            yield event(as_json(anthropic_error(error, status_of(error))), name="error")

    def _part(self, part: Part) -> Iterator[bytes]:
        if isinstance(part, ToolCall):
            self._n_calls += 1
            yield from self._begin("tool_use", {**block_of(part), "input": {}})
            yield self._delta({"type": "input_json_delta", "partial_json": part.arguments})
            yield from self._close()
        elif part.thinking:
            if self._open != "thinking":
                yield from self._begin("thinking", {"type": "thinking", "thinking": "", "signature": ""})
            yield self._delta({"type": "thinking_delta", "thinking": part.text})
        else:
            if self._open != "text":
                yield from self._begin("text", EMPTY_TEXT)
            yield self._delta({"type": "text_delta", "text": part.text})

    def _end(self, ended: Ended) -> Iterator[bytes]:
        if self._index < 0:
            yield from self._begin("text", EMPTY_TEXT)
        yield from self._close()
        reason = stop_reason(ended.finish, ended.stop_string, self._n_calls)
        delta = {"stop_reason": reason, "stop_sequence": ended.stop_string or None}
        counted = self._usage(ended.stats, ended.n_tokens, ended.n_thought)
        yield named("message_delta", {"delta": delta, "usage": counted, "edgeinfer": figures(ended.stats, self.served)})
        yield named("message_stop", {})

    def _begin(self, kind: str, block: Mapping[str, object]) -> Iterator[bytes]:
        yield from self._close()
        self._open = kind
        self._index += 1
        yield named("content_block_start", {"index": self._index, "content_block": block})

    def _close(self) -> Iterator[bytes]:
        if self._open:
            self._open = ""
            yield named("content_block_stop", {"index": self._index})

    def _delta(self, delta: Mapping[str, object]) -> bytes:
        return named("content_block_delta", {"index": self._index, "delta": delta})

    def _head(self, content: list[dict[str, object]]) -> dict[str, object]:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.served.name,
            "content": content,
            "container": None,
            "stop_details": None,
        }

    def _usage(self, stats: AnswerStats, n_tokens: int, n_thought: int = 0) -> dict[str, object]:
        return {
            "input_tokens": self.n_prompt - stats.reused,
            "output_tokens": n_tokens,
            "cache_read_input_tokens": stats.reused,
            "cache_creation_input_tokens": 0,
            "cache_creation": None,
            "server_tool_use": None,
            "service_tier": "standard",
            "inference_geo": None,
            "output_tokens_details": {"thinking_tokens": n_thought},
        }


def named(kind: str, value: Mapping[str, object]) -> bytes:
    return event(as_json({"type": kind, **value}), name=kind)


def block_of(call: ToolCall) -> dict[str, object]:
    arguments = json.loads(call.arguments)
    made = {"type": "tool_use", "id": f"toolu_{secrets.token_hex(12)}", "name": call.name, "input": arguments}
    return {**made, "caller": {"type": "direct"}}


def stop_reason(finish: Finish, stop_string: str, n_calls: int) -> str:
    if finish == "length":
        return "max_tokens"
    if n_calls:
        return "tool_use"
    return "stop_sequence" if stop_string else "end_turn"


async def messages(request: Request) -> Response:
    models: Models = request.app.state.models
    body = await read_body(request, MessagesBody)
    served = models.find(body.model)
    answering = await unless_gone(request, served.answer(body.generation(served)))
    writer = MessageWriter(served, answering.n_prompt)
    return await reply(request, answering, lambda one: writer.message(*one), writer.events, streamed=body.stream)


async def count_tokens(request: Request) -> Response:
    models: Models = request.app.state.models
    body = await read_body(request, CountBody)
    served = models.find(body.model)
    return JSONResponse({"input_tokens": await served.count_tokens(body.generation(served))})
