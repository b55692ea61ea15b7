"""The parameters that say how tokens are chosen, as chat and completions share them."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Field

from edgeinfer.serve.generation import MAX_TOKENS
from edgeinfer.serve.http.reading import Body, ParameterError
from edgeinfer.types import Sampling

__all__ = ["MostTokens", "SamplingBody", "StreamOptions", "most_tokens"]

MAX_STOPS = 16
MAX_ANSWERS = 16


MostTokens: TypeAlias = Annotated[int, Field(ge=1, le=10**9)] | Literal[-1]
"""-1, as LM Studio's examples have it, is no limit of the request."""


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # harmless: there is nothing to hide on one's own machine


class SamplingBody(Body):
    """`top_k`, `min_p` and `repeat_penalty` are not OpenAI's, but many local clients send them."""

    hints: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("functions", "function_call"), "send `tools` and `tool_choice`"),
        **dict.fromkeys(("grammar", "guided_json", "json_schema"), "send `response_format`"),
        **dict.fromkeys(
            ("chat_template_kwargs", "enable_thinking", "think"), 'for no reasoning, send `reasoning_effort: "none"`'
        ),
        "model": "GET /v1/models lists them",
        "n_predict": "send `max_tokens`",
        "repetition_penalty": "send `repeat_penalty`",
        "prompt": "send `messages`, or use /v1/completions",
        "messages": "use /v1/chat/completions",
    }

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.1, le=10.0)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    logit_bias: dict[str, Annotated[float, Field(ge=-100.0, le=100.0)]] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=MAX_STOPS)] | None = None
    n: Annotated[int, Field(ge=1, le=MAX_ANSWERS)] | None = None
    # Harmless: they change nothing on one's own machine.
    user: str | None = None
    metadata: dict[str, str] | None = None
    store: Literal[False] | None = None
    service_tier: Literal["auto", "default"] | None = None
    prompt_cache_key: str | None = None
    safety_identifier: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if "" in stops:
            raise ParameterError("a stop string must not be empty", parameter="stop")
        return stops

    @property
    def wants_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, usual: Sampling, n_vocab: int) -> Sampling:
        """`usual` with what the request names. A truncation without a temperature means that it wants to sample."""
        given: dict[str, float | int | None] = {
            "temperature": self.temperature,
            "top_p": None if self.top_p is None else max(self.top_p, 1e-6),
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        truncates = any(value is not None for value in (self.top_p, self.top_k, self.min_p))
        if self.temperature is None and usual.temperature == 0.0 and truncates:
            given["temperature"] = 1.0
        named = {name: value for name, value in given.items() if value is not None}
        seed = secrets.randbits(32) if self.seed is None else self.seed
        bias = as_bias(self.logit_bias or {}, n_vocab)
        return replace(usual, seed=seed, logit_bias=bias, **named)  # type: ignore[arg-type]  # fields of Sampling


def as_bias(given: Mapping[str, float], n_vocab: int) -> tuple[tuple[int, float], ...]:
    bias: dict[int, float] = {}
    for name, value in given.items():
        if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < n_vocab):
            raise ParameterError(
                f"`logit_bias` names the token `{name[:20]}`: ids are 0 to {n_vocab - 1}", parameter="logit_bias"
            )
        bias[int(name)] = value
    return tuple(bias.items())


def most_tokens(*given: int | None) -> int:
    return next((value for value in given if value not in (None, -1)), MAX_TOKENS)
