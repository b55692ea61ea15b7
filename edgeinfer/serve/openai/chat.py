"""`POST /v1/chat/completions`."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from edgeinfer.errors import EdgeInferError
from edgeinfer.protocols import Tokenizer
from edgeinfer.serve.answering import Answering, Whole
from edgeinfer.serve.engine.job import Ended, Finish, TokenLogprob
from edgeinfer.serve.engine.text import Part
from edgeinfer.serve.figures import figures
from edgeinfer.serve.generation import Generation
from edgeinfer.serve.http.errors import status_of
from edgeinfer.serve.http.reading import ParameterError, read_body
from edgeinfer.serve.http.streams import as_json, event, reply, unless_gone
from edgeinfer.serve.models import Models
from edgeinfer.serve.openai.errors import openai_error
from edgeinfer.serve.openai.messages import ChatMessage, as_conversation
from edgeinfer.serve.openai.sampling import MostTokens, SamplingBody, most_tokens
from edgeinfer.serve.openai.tools import (
    MAX_TOOLS,
    FunctionChoice,
    FunctionTool,
    ResponseFormat,
    choose_tools,
    schema_of,
)
from edgeinfer.serve.openai.usage import total, usage
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import ToolCall

__all__ = ["ChatBody", "chat_completions", "logprob_object"]


class ChatBody(SamplingBody):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: MostTokens | None = None
    max_completion_tokens: MostTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None

    def generation(self, served: ServedModel) -> Generation:
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("`top_logprobs` needs `logprobs: true`", parameter="top_logprobs")
        choice = self.tool_choice
        named = choice.function.name if isinstance(choice, FunctionChoice) else None
        chosen = choose_tools([one.tool for one in self.tools or ()], None if named else choice, named)  # type: ignore[arg-type]
        schema, parameter = schema_of(self.response_format)
        if schema is not None and chosen.tools and chosen.choice != "none":
            raise ParameterError("an answer of a given form cannot call tools", parameter="response_format")
        return Generation(
            sampling=self.sampling(served.usual, served.tokenizer.n_vocab),
            messages=as_conversation(self.messages),
            max_tokens=most_tokens(self.max_completion_tokens, self.max_tokens),
            stop=self.stops,
            thinking=self.reasoning_effort != "none",
            n_answers=self.n or 1,
            n_top=(self.top_logprobs or 0) if self.logprobs else None,
            tools=chosen.tools,
            tool_choice=chosen.choice,
            one_call=self.parallel_tool_calls is False,
            schema=schema,
            schema_parameter=parameter,
        )


@dataclass(frozen=True, slots=True)
class ChatWriter:
    """The objects of one answer to `body`."""

    served: ServedModel
    body: ChatBody
    n_prompt: int
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answers: Sequence[Whole]) -> dict[str, object]:
        n_tokens, n_thought = total(answers)
        return {
            **self._head("chat.completion"),
            "choices": [self._choice(index, answer) for index, answer in enumerate(answers)],
            "usage": usage(answers[0].stats, self.n_prompt, n_tokens, n_thought),
            "edgeinfer": figures(answers[0].stats, self.served),
        }

    async def chunks(self, answering: Answering) -> AsyncIterator[bytes]:
        """Server-sent events. A failure after the first byte is an event, too."""
        for index in range(len(answering.jobs)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        ended: list[Ended] = []
        n_calls: Counter[int] = Counter()
        try:
            async for index, step in answering:
                if isinstance(step, Ended):
                    ended.append(step)
                    finish = finish_reason(step.finish, n_calls[index])
                    yield self._chunk(index, {}, finish=finish, figures=figures(step.stats, self.served))
                    continue
                logprobs = self._logprobs(step.logprobs)
                so_far = {"emitted": step.n_tokens} if self.body.wants_usage else None
                for part in step.parts:
                    yield self._chunk(index, delta_of(part, n_calls[index]), logprobs=logprobs, figures=so_far)
                    n_calls[index] += isinstance(part, ToolCall)
                    logprobs = None
                if logprobs:
                    yield self._chunk(index, {"content": ""}, logprobs=logprobs)
        except EdgeInferError as error:
            yield event(as_json(openai_error(error, status_of(error))))
            return
        if self.body.wants_usage and ended:
            counted = usage(ended[0].stats, self.n_prompt, *total(ended))
            yield event(as_json({**self._head("chat.completion.chunk"), "choices": [], "usage": counted}))
        yield event("[DONE]")

    def _head(self, kind: str) -> dict[str, object]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }

    def _choice(self, index: int, answer: Whole) -> dict[str, object]:
        message: dict[str, object] = {
            "role": "assistant",
            "content": answer.text or (None if answer.calls else ""),
            "refusal": None,
            "annotations": [],
        }
        if answer.thinking:
            message["reasoning_content"] = answer.thinking
        if answer.calls:
            message["tool_calls"] = [call_object(call) for call in answer.calls]
        logprobs = self._logprobs(answer.logprobs) if self.body.logprobs else None
        finish = finish_reason(answer.finish, len(answer.calls))
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": finish}

    def _chunk(
        self,
        index: int,
        delta: Mapping[str, object],
        *,
        finish: str | None = None,
        logprobs: Mapping[str, object] | None = None,
        figures: Mapping[str, object] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        chunk: dict[str, object] = {**self._head("chat.completion.chunk"), "choices": [choice]}
        if self.body.wants_usage:
            chunk["usage"] = None
        if figures is not None:
            chunk["edgeinfer"] = figures
        return event(as_json(chunk))

    def _logprobs(self, tokens: Sequence[TokenLogprob]) -> dict[str, object] | None:
        if not tokens:
            return None
        return {"content": [logprob_object(token, self.served.tokenizer) for token in tokens], "refusal": None}


def finish_reason(finish: Finish, n_calls: int) -> str:
    return "tool_calls" if n_calls and finish == "stop" else finish


def delta_of(part: Part, n_calls: int) -> dict[str, object]:
    if isinstance(part, ToolCall):
        return {"tool_calls": [{"index": n_calls, **call_object(part)}]}
    return {"reasoning_content" if part.thinking else "content": part.text}


def call_object(call: ToolCall) -> dict[str, object]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def logprob_object(token: TokenLogprob, tokenizer: Tokenizer) -> dict[str, object]:
    def one(id: int, logprob: float) -> dict[str, object]:
        data = tokenizer.piece(id)
        return {"token": data.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(data)}

    return {**one(token.token, token.logprob), "top_logprobs": [one(*top) for top in token.top]}


async def chat_completions(request: Request) -> Response:
    models: Models = request.app.state.models
    body = await read_body(request, ChatBody)
    served = models.find(body.model)
    answering = await unless_gone(request, served.answer(body.generation(served)))
    writer = ChatWriter(served, body, answering.n_prompt)
    return await reply(request, answering, writer.completion, writer.chunks, streamed=body.stream)
