"""`POST /v1/completions`: a text is continued, without a chat template."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Annotated, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from edgeinfer.errors import EdgeInferError
from edgeinfer.serve.answering import Answering, Whole
from edgeinfer.serve.engine.job import Ended, TokenLogprob
from edgeinfer.serve.figures import figures
from edgeinfer.serve.generation import Generation
from edgeinfer.serve.http.errors import status_of
from edgeinfer.serve.http.reading import ParameterError, read_body
from edgeinfer.serve.http.streams import as_json, event, reply, unless_gone
from edgeinfer.serve.models import Models
from edgeinfer.serve.openai.errors import openai_error
from edgeinfer.serve.openai.sampling import MostTokens, SamplingBody, most_tokens
from edgeinfer.serve.openai.usage import total, usage
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import ToolCall

__all__ = ["CompletionBody", "completions"]

USUAL_TOKENS = 16  # OpenAI's own default for this endpoint


class CompletionBody(SamplingBody):
    prompt: str | list[str] | list[int]
    max_tokens: MostTokens | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None

    def generation(self, served: ServedModel) -> Generation:
        return Generation(
            sampling=self.sampling(served.usual, served.tokenizer.n_vocab),
            raw=raw_of(self.prompt),
            max_tokens=USUAL_TOKENS if self.max_tokens is None else most_tokens(self.max_tokens),
            stop=self.stops,
            n_answers=self.n or 1,
            n_top=self.logprobs,
        )


def raw_of(prompt: str | Sequence[str] | Sequence[int]) -> str | list[int]:
    if isinstance(prompt, str):
        return prompt
    ids = [one for one in prompt if isinstance(one, int)]
    texts = [one for one in prompt if isinstance(one, str)]
    if ids:
        return ids
    if len(texts) != 1:
        raise ParameterError(
            f"`prompt` holds {len(texts)} texts", parameter="prompt", hint="send one request for each of them"
        )
    return texts[0]


@dataclass(frozen=True, slots=True)
class CompletionWriter:
    served: ServedModel
    body: CompletionBody
    n_prompt: int
    id: str = field(default_factory=lambda: f"cmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def completion(self, answers: Sequence[Whole]) -> dict[str, object]:
        choices = [
            self._choice(index, answer.text, answer.finish, answer.logprobs) for index, answer in enumerate(answers)
        ]
        counted = usage(answers[0].stats, self.n_prompt, *total(answers))
        return {
            **self._head(),
            "choices": choices,
            "usage": counted,
            "edgeinfer": figures(answers[0].stats, self.served),
        }

    async def chunks(self, answering: Answering) -> AsyncIterator[bytes]:
        ended: list[Ended] = []
        offsets: Counter[int] = Counter()  # characters of each answer so far
        try:
            async for index, step in answering:
                if isinstance(step, Ended):
                    ended.append(step)
                    choice = self._choice(index, "", step.finish, [])
                else:
                    text = "".join(part.text for part in step.parts if not isinstance(part, ToolCall))
                    choice = self._choice(index, text, None, step.logprobs, offsets[index])
                    offsets[index] += sum(len(self._text(one.token)) for one in step.logprobs)
                yield event(as_json({**self._head(), "choices": [choice]}))
        except EdgeInferError as error:
            yield event(as_json(openai_error(error, status_of(error))))
            return
        if self.body.wants_usage and ended:
            counted = usage(ended[0].stats, self.n_prompt, *total(ended))
            yield event(as_json({**self._head(), "choices": [], "usage": counted}))
        yield event("[DONE]")

    def _head(self) -> dict[str, object]:
        return {
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.served.name,
            "system_fingerprint": self.served.fingerprint,
        }

    def _choice(
        self, index: int, text: str, finish: str | None, tokens: Sequence[TokenLogprob], offset: int = 0
    ) -> Mapping[str, object]:
        logprobs = self._logprobs(tokens, offset) if tokens else None
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}

    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> dict[str, object]:
        """`offset` is the number of characters before the first of `tokens`."""
        texts = [self._text(token.token) for token in tokens]
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [{self._text(one): logprob for one, logprob in token.top} for token in tokens],
            "text_offset": list(accumulate(map(len, texts[:-1]), initial=offset)),
        }

    def _text(self, token: int) -> str:
        return self.served.tokenizer.piece(token).decode("utf-8", "replace")


async def completions(request: Request) -> Response:
    models: Models = request.app.state.models
    body = await read_body(request, CompletionBody)
    served = models.find(body.model)
    answering = await unless_gone(request, served.answer(body.generation(served)))
    writer = CompletionWriter(served, body, answering.n_prompt)
    return await reply(request, answering, writer.completion, writer.chunks, streamed=body.stream)
