"""`POST /api/chat` and `POST /api/generate`."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from time import perf_counter

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgeinfer.decode.stats import AnswerStats
from edgeinfer.errors import EdgeInferError
from edgeinfer.serve.answering import Answering, Whole
from edgeinfer.serve.engine.job import Ended, Written
from edgeinfer.serve.figures import figures
from edgeinfer.serve.http.errors import status_of
from edgeinfer.serve.http.reading import read_body
from edgeinfer.serve.http.streams import as_json, reply, unless_gone
from edgeinfer.serve.models import Models
from edgeinfer.serve.ollama.body import AskedBody, ChatBody, GenerateBody
from edgeinfer.serve.ollama.errors import ollama_error
from edgeinfer.serve.openai.chat import logprob_object
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import ToolCall

__all__ = ["chat", "generate"]


@dataclass(frozen=True, slots=True)
class LineWriter:
    """The objects of one answer; `chat` says that the text is a message's."""

    served: ServedModel
    chat: bool
    began: float

    def whole(self, answer: Whole) -> dict[str, object]:
        return {**self._head(), **self._said(answer), **self._end(answer.finish, answer.stats, answer.n_tokens)}

    async def lines(self, answering: Answering) -> AsyncIterator[bytes]:
        try:
            async for _, step in answering:
                yield line(self._written(step) if isinstance(step, Written) else self._ended(step))
        except EdgeInferError as error:
            yield line(ollama_error(error, status_of(error)))

    def loaded(self) -> dict[str, object]:
        """The answer to a request without a prompt, which only loads the model."""
        return {**self._head(), **self._said(Whole()), "done": True, "done_reason": "load"}

    def _written(self, step: Written) -> dict[str, object]:
        whole = Whole()
        whole.take(step)
        return {**self._head(), **self._said(whole), "done": False}

    def _ended(self, ended: Ended) -> dict[str, object]:
        return {**self._head(), **self._said(Whole()), **self._end(ended.finish, ended.stats, ended.n_tokens)}

    def _head(self) -> dict[str, object]:
        return {"model": self.served.name, "created_at": datetime.now(UTC).isoformat()}

    def _said(self, answer: Whole) -> dict[str, object]:
        thought = {"thinking": answer.thinking} if answer.thinking else {}
        likely = [logprob_object(token, self.served.tokenizer) for token in answer.logprobs]
        likelihood = {"logprobs": likely} if likely else {}
        if not self.chat:
            return {"response": answer.text, **thought, **likelihood}
        called = {"tool_calls": [call_object(call) for call in answer.calls]} if answer.calls else {}
        return {"message": {"role": "assistant", "content": answer.text, **thought, **called}, **likelihood}

    def _end(self, finish: str, stats: AnswerStats, n_tokens: int) -> dict[str, object]:
        return {
            "done": True,
            "done_reason": finish,
            "total_duration": nanoseconds(perf_counter() - self.began),
            "load_duration": 0,
            "prompt_eval_count": stats.prompt,
            "prompt_eval_duration": nanoseconds(stats.prefill_s),
            "eval_count": n_tokens,
            "eval_duration": nanoseconds(stats.decode_s),
            "edgeinfer": figures(stats, self.served),
        }


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def line(value: Mapping[str, object]) -> bytes:
    return as_json(value).encode() + b"\n"


def call_object(call: ToolCall) -> dict[str, object]:
    return {"function": {"name": call.name, "arguments": json.loads(call.arguments)}}


async def chat(request: Request) -> Response:
    body = await read_body(request, ChatBody)
    return await answered(request, body, is_chat=True, empty=not body.messages)


async def generate(request: Request) -> Response:
    body = await read_body(request, GenerateBody)
    return await answered(request, body, is_chat=False, empty=not body.prompt)


async def answered(request: Request, body: ChatBody | GenerateBody, *, is_chat: bool, empty: bool) -> Response:
    models: Models = request.app.state.models
    served = models.find(body.model)
    writer = LineWriter(served, is_chat, perf_counter())
    if empty:
        return JSONResponse(writer.loaded())
    answering = await unless_gone(request, served.answer(body.generation(served)))
    return await reply(
        request,
        answering,
        lambda one: writer.whole(*one),
        writer.lines,
        streamed=streams(body),
        media_type="application/x-ndjson",
    )


def streams(body: AskedBody) -> bool:
    """Ollama streams by default."""
    return body.stream is not False
