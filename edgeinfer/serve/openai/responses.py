"""`POST /v1/responses`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import Response

from edgeinfer.decode.stats import AnswerStats
from edgeinfer.errors import EdgeInferError
from edgeinfer.serve.answering import Answering, Whole
from edgeinfer.serve.engine.job import Ended
from edgeinfer.serve.engine.text import Part
from edgeinfer.serve.figures import figures
from edgeinfer.serve.http.errors import status_of
from edgeinfer.serve.http.reading import ParameterError, read_body
from edgeinfer.serve.http.streams import as_json, event, reply, unless_gone
from edgeinfer.serve.models import Models
from edgeinfer.serve.openai.errors import openai_error
from edgeinfer.serve.openai.responses_body import ResponsesBody
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import ToolCall

__all__ = ["responses"]


@dataclass(slots=True)
class Output:
    """An item of the output while it is written: text, reasoning or a call."""

    kind: str
    id: str
    text: str = ""
    call: ToolCall | None = None

    def item(self, status: str) -> dict[str, object]:
        if self.call is not None:
            called = {"call_id": f"call_{self.id[3:]}", "name": self.call.name, "arguments": self.call.arguments}
            return {"type": "function_call", "id": self.id, **called, "status": status}
        if self.kind == "reasoning":
            content = [{"type": "reasoning_text", "text": self.text}] if self.text else []
            return {"type": "reasoning", "id": self.id, "summary": [], "content": content, "status": status}
        parts = [self.part()] if self.text or status != "in_progress" else []
        return {"type": "message", "id": self.id, "status": status, "role": "assistant", "content": parts}

    def part(self) -> dict[str, object]:
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": []}


@dataclass(slots=True)
class ResponseWriter:
    """The objects of one response."""

    served: ServedModel
    body: ResponsesBody
    n_prompt: int
    id: str = field(default_factory=lambda: f"resp_{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    _outputs: list[Output] = field(default_factory=list)
    _open: bool = False  # the newest output
    _n_events: int = 0

    def whole(self, answer: Whole) -> dict[str, object]:
        said = [("reasoning", answer.thinking), ("message", answer.text)]
        kept = [(kind, text) for kind, text in said if text] or ([] if answer.calls else [("message", "")])
        self._outputs = [Output(kind, new_id(kind), text) for kind, text in kept]
        self._outputs += [Output("function_call", new_id("function_call"), call=call) for call in answer.calls]
        return self._ended(Ended(answer.finish, answer.stats, answer.n_tokens, answer.n_thought))

    async def events(self, answering: Answering) -> AsyncIterator[bytes]:
        yield self._event("response.created", {"response": self._response("in_progress")})
        yield self._event("response.in_progress", {"response": self._response("in_progress")})
        try:
            async for _, step in answering:
                if isinstance(step, Ended):
                    for one in self._end(step):
                        yield one
                    break
                for part in step.parts:
                    for one in self._part(part):
                        yield one
        except EdgeInferError as error:
            yield self._event("error", openai_error(error, status_of(error)))

    def _end(self, ended: Ended) -> Iterator[bytes]:
        if not self._outputs:
            yield from self._begin("message")
        yield from self._close()
        kind = "incomplete" if ended.finish == "length" else "completed"
        yield self._event(f"response.{kind}", {"response": self._ended(ended)})

    def _part(self, part: Part) -> Iterator[bytes]:
        if isinstance(part, ToolCall):
            yield from self._begin("function_call", part)
            place = self._place()
            yield self._event("response.function_call_arguments.delta", {**place, "delta": part.arguments})
            yield self._event("response.function_call_arguments.done", {**place, "arguments": part.arguments})
            yield from self._close()
            return
        kind = "reasoning" if part.thinking else "message"
        if not self._open or self._outputs[-1].kind != kind:
            yield from self._begin(kind)
        self._outputs[-1].text += part.text
        name = "response.reasoning_text.delta" if part.thinking else "response.output_text.delta"
        delta: dict[str, object] = {**self._place(), "content_index": 0, "delta": part.text}
        yield self._event(name, delta if part.thinking else {**delta, "logprobs": []})

    def _begin(self, kind: str, call: ToolCall | None = None) -> Iterator[bytes]:
        yield from self._close()
        begun = Output(kind, new_id(kind))
        begun.call = call and ToolCall(call.name, "")
        self._outputs.append(begun)
        self._open = True
        place = {"output_index": len(self._outputs) - 1}
        yield self._event("response.output_item.added", {**place, "item": begun.item("in_progress")})
        begun.call = call
        if kind == "message":
            yield self._event(
                "response.content_part.added", {**self._place(), "content_index": 0, "part": begun.part()}
            )

    def _close(self) -> Iterator[bytes]:
        if not self._open:
            return
        self._open = False
        newest = self._outputs[-1]
        place = {**self._place(), "content_index": 0}
        if newest.kind == "message":
            yield self._event("response.output_text.done", {**place, "text": newest.text, "logprobs": []})
            yield self._event("response.content_part.done", {**place, "part": newest.part()})
        elif newest.kind == "reasoning":
            yield self._event("response.reasoning_text.done", {**place, "text": newest.text})
        done = {"output_index": len(self._outputs) - 1, "item": newest.item("completed")}
        yield self._event("response.output_item.done", done)

    def _place(self) -> dict[str, object]:
        return {"item_id": self._outputs[-1].id, "output_index": len(self._outputs) - 1}

    def _event(self, kind: str, value: Mapping[str, object]) -> bytes:
        number, self._n_events = self._n_events, self._n_events + 1
        return event(as_json({"type": kind, "sequence_number": number, **value}), name=kind)

    def _ended(self, ended: Ended) -> dict[str, object]:
        status = "incomplete" if ended.finish == "length" else "completed"
        return {
            **self._response(status),
            "usage": usage(ended.stats, self.n_prompt, ended.n_tokens, ended.n_thought),
            "edgeinfer": figures(ended.stats, self.served),
        }

    def _response(self, status: str) -> dict[str, object]:
        body = self.body
        done = status != "in_progress"
        items = [one.item("incomplete" if status == "incomplete" else "completed") for one in self._outputs]
        sampling = body.sampling(self.served.usual, self.served.tokenizer.n_vocab)
        return {
            "id": self.id,
            "object": "response",
            "created_at": self.created,
            "completed_at": int(time.time()) if done else None,
            "status": status,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "model": self.served.name,
            "previous_response_id": None,
            "instructions": body.instructions,
            "output": items if done else [],
            "error": None,
            "tools": [shown_tool(tool.model_dump()) for tool in body.tools or ()],
            "tool_choice": shown_choice(body),
            "truncation": "disabled",
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "text": {"format": shown_form(body)},
            "top_p": sampling.top_p,
            "presence_penalty": sampling.presence_penalty,
            "frequency_penalty": sampling.frequency_penalty,
            "top_logprobs": 0,
            "temperature": sampling.temperature,
            "reasoning": {"effort": body.reasoning.effort if body.reasoning else None, "summary": None},
            "usage": None,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": None,
            "store": False,
            "background": False,
            "service_tier": "default",
            "metadata": body.metadata or {},
            "safety_identifier": body.safety_identifier,
            "prompt_cache_key": body.prompt_cache_key,
        }


def new_id(kind: str) -> str:
    return {"message": "msg_", "reasoning": "rs_", "function_call": "fc_"}[kind] + secrets.token_hex(12)


def shown_tool(tool: Mapping[str, object]) -> dict[str, object]:
    return {**tool, "strict": bool(tool["strict"])}


def shown_choice(body: ResponsesBody) -> object:
    choice = body.tool_choice or "auto"
    return choice if isinstance(choice, str) else choice.model_dump()


def shown_form(body: ResponsesBody) -> object:
    form = body.text.format if body.text and body.text.format else None
    return {"type": "text"} if form is None else form.model_dump(by_alias=True, exclude_none=True)


def usage(stats: AnswerStats, n_prompt: int, n_tokens: int, n_thought: int) -> dict[str, object]:
    return {
        "input_tokens": n_prompt,
        "output_tokens": n_tokens,
        "total_tokens": n_prompt + n_tokens,
        "input_tokens_details": {"cached_tokens": stats.reused},
        "output_tokens_details": {"reasoning_tokens": n_thought},
    }


async def responses(request: Request) -> Response:
    models: Models = request.app.state.models
    body = await read_body(request, ResponsesBody)
    if body.n not in (None, 1):
        raise ParameterError("`n` is not supported", parameter="n")
    served = models.find(body.model)
    answering = await unless_gone(request, served.answer(body.generation(served)))
    writer = ResponseWriter(served, body, answering.n_prompt)
    return await reply(request, answering, lambda one: writer.whole(*one), writer.events, streamed=body.stream)
