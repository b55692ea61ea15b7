"""`POST /v1/chat/completions`."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edgeinfer.errors import EdgeInferError
from edgeinfer.protocols import Tokenizer
from edgeinfer.serve.answering import Answering, Whole
from edgeinfer.serve.engine.job import Ended, TokenLogprob
from edgeinfer.serve.generation import Generation
from edgeinfer.serve.http.errors import status_of
from edgeinfer.serve.http.reading import Body, ParameterError, read_body
from edgeinfer.serve.http.streams import AnswerResponse, as_json, event, unless_gone
from edgeinfer.serve.models import Models
from edgeinfer.serve.openai.errors import openai_error
from edgeinfer.serve.openai.sampling import SamplingBody, most_tokens
from edgeinfer.serve.openai.usage import figures, usage
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import Message

__all__ = ["ChatBody", "chat_completions"]


class TextPart(Body):
    type: Literal["text"]
    text: str


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None
    name: str | None = None
    # What clients send back of an answer.
    reasoning_content: str | None = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class ChatBody(SamplingBody):
    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=10**9)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high"] | None = None

    def generation(self, served: ServedModel) -> Generation:
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("`top_logprobs` needs `logprobs: true`", parameter="top_logprobs")
        return Generation(
            sampling=self.sampling(served.usual, served.tokenizer.n_vocab),
            messages=as_conversation(self.messages),
            max_tokens=most_tokens(self.max_completion_tokens, self.max_tokens),
            stop=self.stops,
            thinking=self.reasoning_effort != "none",
            n_answers=self.n or 1,
            n_top=(self.top_logprobs or 0) if self.logprobs else None,
        )


def as_conversation(messages: Sequence[ChatMessage]) -> tuple[Message, ...]:
    """The system messages at the front as one, then the others. Raises ParameterError for one that comes later."""
    n_system = next((at for at, one in enumerate(messages) if one.role not in ("system", "developer")), len(messages))
    system = "\n\n".join(message.text for message in messages[:n_system])
    rest = messages[n_system:]
    if any(message.role in ("system", "developer") for message in rest):
        raise ParameterError("a system message can only come first", parameter="messages")
    if not rest or rest[-1].role != "user":
        raise ParameterError("a conversation must end with a message of the user", parameter="messages")
    turns = [Message("assistant" if one.role == "assistant" else "user", one.text) for one in rest]
    return (*([Message("system", system)] if n_system else []), *turns)


@dataclass(frozen=True, slots=True)
class ChatWriter:
    """The objects of one answer to `body`."""

    served: ServedModel
    body: ChatBody
    n_prompt: int
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answers: Sequence[Whole]) -> dict[str, object]:
        n_tokens = sum(answer.n_tokens for answer in answers)
        return {
            **self._head("chat.completion"),
            "choices": [self._choice(index, answer) for index, answer in enumerate(answers)],
            "usage": usage(answers[0].stats, self.n_prompt, n_tokens),
            "edgeinfer": figures(answers[0].stats, self.served),
        }

    async def chunks(self, answering: Answering) -> AsyncIterator[bytes]:
        """Server-sent events. A failure after the first byte is an event, too."""
        for index in range(len(answering.jobs)):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        ended: list[Ended] = []
        try:
            async for index, step in answering:
                if isinstance(step, Ended):
                    ended.append(step)
                    yield self._chunk(index, {}, finish=step.finish, figures=figures(step.stats, self.served))
                    continue
                logprobs = self._logprobs(step.logprobs)
                for segment in step.segments:
                    name = "reasoning_content" if segment.thinking else "content"
                    yield self._chunk(index, {name: segment.text}, logprobs=logprobs)
                    logprobs = None
                if logprobs:
                    yield self._chunk(index, {"content": ""}, logprobs=logprobs)
        except EdgeInferError as error:
            yield event(as_json(openai_error(error, status_of(error))))
            return
        if self.body.wants_usage and ended:
            counted = usage(ended[0].stats, self.n_prompt, sum(one.n_tokens for one in ended))
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
            "content": answer.text,
            "refusal": None,
            "annotations": [],
        }
        if answer.thinking:
            message["reasoning_content"] = answer.thinking
        logprobs = self._logprobs(answer.logprobs) if self.body.logprobs else None
        return {"index": index, "message": message, "logprobs": logprobs, "finish_reason": answer.finish}

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
    if body.stream:
        return AnswerResponse(answering, writer.chunks(answering))
    try:
        return JSONResponse(writer.completion(await unless_gone(request, answering.whole())))
    finally:
        answering.cancel()
