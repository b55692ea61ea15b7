"""The bodies of `POST /api/chat` and `POST /api/generate`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from edgeinfer.serve.generation import MAX_TOKENS, Generation
from edgeinfer.serve.grammar import ANY_OBJECT
from edgeinfer.serve.http.reading import Body, ParameterError
from edgeinfer.serve.openai.tools import FunctionTool, choose_tools
from edgeinfer.serve.served import ServedModel
from edgeinfer.types import Message, Sampling, ToolCall

__all__ = ["ChatBody", "GenerateBody"]


class Options(Body):
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    repeat_penalty: Annotated[float, Field(ge=0.1, le=10.0)] | None = None
    repeat_last_n: Annotated[int, Field(ge=0, le=10**6)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=16)] | None = None
    num_predict: Annotated[int, Field(ge=-2, le=10**9)] | None = None  # below 1: the request sets no limit
    num_ctx: Annotated[int, Field(ge=1)] | None = None
    # Harmless: how a model is opened was planned when the server started, and changes no token.
    num_thread: int | None = None
    num_gpu: int | None = None
    num_batch: int | None = None
    main_gpu: int | None = None
    use_mmap: bool | None = None
    use_mlock: bool | None = None
    low_vram: bool | None = None
    numa: bool | None = None

    def sampling(self, usual: Sampling) -> Sampling:
        given = {
            "temperature": self.temperature,
            "top_p": None if self.top_p is None else max(self.top_p, 1e-6),
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repeat_penalty": self.repeat_penalty,
            "repeat_last_n": self.repeat_last_n,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        named: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        return replace(usual, seed=secrets.randbits(32) if self.seed is None else self.seed, **named)

    @property
    def stops(self) -> tuple[str, ...]:
        stops = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if "" in stops:
            raise ParameterError("a stop string must not be empty", parameter="options.stop")
        return stops

    @property
    def max_tokens(self) -> int:
        return self.num_predict if self.num_predict is not None and self.num_predict > 0 else MAX_TOKENS

    def check_context(self, served: ServedModel) -> None:
        """The window was planned when the server started: a request cannot make it larger."""
        slots = served.plan.window.slots
        if self.num_ctx is not None and self.num_ctx > slots:
            raise ParameterError(
                f"`num_ctx` is {self.num_ctx}, and each conversation has a window of {slots} tokens",
                parameter="options.num_ctx",
                hint=f"start the server with `--context {self.num_ctx}`, or ask for at most {slots}",
            )


class CalledFunction(Body):
    name: str
    arguments: dict[str, Any]
    index: int | None = None


class Call(Body):
    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None


class Turn(Body):
    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None  # parts of an answer that clients send back
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: Annotated[list[str], Field(max_length=0)] | None = None


class AskedBody(Body):
    model: str
    stream: bool | None = None
    format: Literal["", "json"] | dict[str, Any] | None = None
    options: Options | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    keep_alive: float | str | None = None  # harmless: the model stays loaded
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    @property
    def how(self) -> Options:
        return self.options or Options()

    @property
    def schema_of_answer(self) -> Mapping[str, Any] | None:
        if not self.format:
            return None
        return ANY_OBJECT if isinstance(self.format, str) else self.format

    def asked(self, served: ServedModel) -> Generation:
        """Everything except the prompt."""
        self.how.check_context(served)
        if self.top_logprobs is not None and not self.logprobs:
            raise ParameterError("`top_logprobs` needs `logprobs: true`", parameter="top_logprobs")
        return Generation(
            sampling=self.how.sampling(served.usual),
            max_tokens=self.how.max_tokens,
            stop=self.how.stops,
            thinking=self.think is not False,
            n_top=(self.top_logprobs or 0) if self.logprobs else None,
            schema=self.schema_of_answer,
            schema_parameter="format",
        )


class ChatBody(AskedBody):
    messages: list[Turn] | None = None
    tools: Annotated[list[FunctionTool], Field(max_length=128)] | None = None

    def generation(self, served: ServedModel) -> Generation:
        tools = choose_tools([one.tool for one in self.tools or ()], None, None).tools
        if tools and self.format:
            raise ParameterError("an answer of a given form cannot call tools", parameter="format")
        return replace(self.asked(served), messages=as_conversation(self.messages or ()), tools=tools)


class GenerateBody(AskedBody):
    prompt: str = ""
    system: str | None = None
    raw: bool | None = None
    images: Annotated[list[str], Field(max_length=0)] | None = None

    def generation(self, served: ServedModel) -> Generation:
        if self.raw:
            if self.system:
                raise ParameterError("`system` has no place in a raw prompt", parameter="system")
            return replace(self.asked(served), raw=self.prompt)
        system = [Message("system", self.system)] if self.system else []
        return replace(self.asked(served), messages=(*system, Message("user", self.prompt)))


def as_conversation(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """Calls have no ids here: a result belongs to the oldest call that has none. Raises ParameterError."""
    messages: list[Message] = []
    open_calls: list[ToolCall] = []
    for at, turn in enumerate(turns):
        place = f"messages[{at}]"
        if turn.role == "system" and at:
            raise ParameterError("a system message can only come first", parameter=place)
        if turn.role == "tool":
            called = next((call for call in open_calls if turn.tool_name in (None, call.name)), None)
            if called is None:
                raise ParameterError("a result of a tool follows its call", parameter=place)
            open_calls.remove(called)
            messages.append(Message("tool", turn.content or "", call_id=called.id, name=called.name))
            continue
        if turn.tool_calls and turn.role != "assistant":
            raise ParameterError("only the assistant calls tools", parameter=place)
        calls = tuple(
            ToolCall(call.function.name, json.dumps(call.function.arguments, ensure_ascii=False), f"{place}.{n}")
            for n, call in enumerate(turn.tool_calls or ())
        )
        open_calls += calls
        messages.append(Message(turn.role, turn.content or "", calls))
    if not messages or messages[-1].role not in ("user", "tool"):
        raise ParameterError("a conversation must end with a message of the user, or a tool's", parameter="messages")
    return tuple(messages)
