"""A Session: one opened plan and one conversation on it. It owns and closes the model, the cache and the renderer."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TypeAlias

from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import Template
from edgeinfer.chat.thinking import begins_inside
from edgeinfer.decode.stats import AnswerStats
from edgeinfer.errors import UsageError
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Tokenizer
from edgeinfer.runner.answer import Answer, Decodes, Limits
from edgeinfer.types import Message, Sampling

__all__ = ["Conversation", "Parts", "Session"]

MAX_TOKENS = 2048  # of one answer, unless told otherwise: a small model can repeat itself without end

Conversation: TypeAlias = "str | Sequence[Message | Mapping[str, str]]"


@dataclass(frozen=True, slots=True)
class Parts:
    """What a session is made of; `edgeinfer.runner.opening` puts it together. `close` frees all of it, once."""

    decoder: Decodes
    tokenizer: Tokenizer
    template: Template
    close: Callable[[], None]


class Session:
    """One conversation on one model. A context manager; `close` may be called twice.

    `plan` is what was chosen and why, `stats` the counts of the running or last answer, `notes` what a person should
    know about how the model was opened.
    """

    def __init__(self, plan: Plan, parts: Parts, *, notes: tuple[str, ...] = ()) -> None:
        self.plan = plan
        self.notes = notes
        self._parts = parts
        self._builder = PromptBuilder(parts.template, parts.tokenizer)
        self._answer: Answer | None = None
        self._closed = False

    @property
    def stats(self) -> AnswerStats:
        return self._answer.stats if self._answer else AnswerStats()

    def stream(
        self,
        messages: Conversation,
        *,
        sampling: Sampling | None = None,
        max_tokens: int = MAX_TOKENS,
        stop: Sequence[str] = (),
        thinking: bool = True,
        think_budget: int | None = None,
        on_thinking: Callable[[str], None] | None = None,
        stopped: Callable[[], bool] | None = None,
    ) -> Generator[str, None, None]:
        """The answer to a conversation, piece by piece; whole characters only.

        `messages` is the whole conversation, or one question as text. What the last call had already run is not run
        again. `sampling` is the model's usual one unless given; `stop` ends the answer before any of these strings.
        `thinking=False` asks the template for no trace, `think_budget` ends one after so many tokens, and
        `on_thinking` receives it; it is in no answer. `stopped` is asked after every token whether to end here.
        A reader may walk away at any time. Raises UsageError for a conversation that cannot be used, EngineFailed
        when the engine gives up.
        """
        if self._closed:
            raise UsageError("this session is closed")
        conversation = as_messages(messages)
        limits = Limits(max_tokens, tuple(stop), think_budget, stopped or never)
        prompt = self._builder.build(conversation, {"enable_thinking": thinking})
        if conversation[0].role != "system" and prompt.n_system > self.plan.window.sink:
            prompt = replace(prompt, n_system=0)  # nobody wrote it, so nobody is told that it does not fit
        tags = self.plan.model.thinking
        inside = tags is not None and begins_inside(self._builder.opening, tags)
        answer = Answer(self._parts.decoder, self._parts.tokenizer, limits=limits, tags=tags, inside=inside)
        self._answer = answer
        pieces = answer.stream(prompt, sampling or self.plan.model.sampling, on_thinking or ignore)
        return self._remembering(answer, pieces)

    def close(self) -> None:
        """Free the model and end the renderer."""
        if self._closed:
            return
        self._closed = True
        self._parts.close()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remembering(self, answer: Answer, pieces: Generator[str, None, None]) -> Generator[str, None, None]:
        try:
            with closing(pieces):
                while not self._closed:
                    piece = next(pieces, None)
                    if piece is None:
                        return
                    yield piece
            raise UsageError("this session is closed")
        finally:
            self._builder.answered(answer.tokens, answer.text)


def as_messages(conversation: Conversation) -> list[Message]:
    """Raises UsageError for what is not a conversation that ends with a question."""
    if isinstance(conversation, str):
        conversation = [Message("user", conversation)]
    messages = [message if isinstance(message, Message) else from_mapping(message) for message in conversation]
    if not messages or messages[-1].role != "user":
        raise UsageError("a conversation must end with a message of the user")
    if any(message.role == "system" for message in messages[1:]):
        raise UsageError("a system message can only come first")
    for message in messages:
        try:
            message.content.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError("a message holds characters that UTF-8 cannot carry") from None
    return messages


def from_mapping(message: Mapping[str, str]) -> Message:
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise UsageError("a message needs a `role` (system, user or assistant) and a `content` of text")
    return Message(role, content)  # type: ignore[arg-type]  # checked above


def ignore(text: str) -> None:
    del text


def never() -> bool:
    return False
