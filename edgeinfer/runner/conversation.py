"""One conversation with a loaded model: its cache, its drafters and its prompt builder."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import TypeAlias

from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.reasoning import NO_THINKING
from edgeinfer.chat.template import Template
from edgeinfer.chat.thinking import Segment
from edgeinfer.chat.tool_formats import format_of
from edgeinfer.chat.tool_prompts import confirmed, with_tools_in_words
from edgeinfer.device.reached import keep_reached
from edgeinfer.errors import UsageError
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Tokenizer
from edgeinfer.runner.answer import Answer, AnswerDecoder, AnswerSettings, AnswerStream, Writer
from edgeinfer.types import Message, Prompt

Messages: TypeAlias = str | Sequence[Message | Mapping[str, str]]
RawPrompt: TypeAlias = str | Sequence[int]

UNKNOWN_REASONING = "the way in which this model marks its reasoning is not known, so it cannot be turned off"


def _ignore(answer: Answer) -> None:
    del answer


class Conversation:
    """Turns messages or a raw prompt into an answer. One answer at a time: a new one ends the one before.

    `close` runs `free`, once. It also runs when the conversation is garbage-collected.
    """

    def __init__(
        self, plan: Plan, decoder: AnswerDecoder, tokenizer: Tokenizer, template: Template, free: Callable[[], None]
    ) -> None:
        self.close = weakref.finalize(self, free)
        self.close.atexit = False
        self.used = False
        self._plan = plan
        self._decoder = decoder
        self._tokenizer = tokenizer
        self._writes_tools = confirmed(format_of(template.source), template).native
        self._builder = PromptBuilder(template, tokenizer, tags=plan.model.thinking)
        self.notices: tuple[str, ...] = ()  # notes for the user about the newest prompt
        self._running: weakref.ref[AnswerStream] | None = None

    def answer(
        self, messages: Messages, settings: AnswerSettings, ended: Callable[[Answer], None] = _ignore
    ) -> AnswerStream:
        """The answer to the last of `messages`. `ended` receives the answer, or the part that was read.

        Raises UsageError for messages that cannot be used.
        """
        conversation: Sequence[Message] = as_messages(messages)
        if not self._writes_tools:
            conversation = with_tools_in_words(conversation, ())
        self.end_answer()
        builder = self._builder
        prompt = builder.build(conversation, {"enable_thinking": True} if settings.thinking else NO_THINKING)
        if conversation[0].role != "system" and prompt.n_system > self._plan.window.sink:
            prompt = replace(prompt, n_system=0)  # the template's own default: it may leave the window
        cannot_act = not settings.thinking and not builder.reasoning.is_controlled
        self.notices = (*builder.notices, UNKNOWN_REASONING) if cannot_act else builder.notices
        writer = Writer(self._decoder, self._tokenizer, settings=settings, form=builder.form)

        def keep() -> None:
            builder.answered(writer.tokens, writer.text)
            ended(writer.answer)

        return self._stream(writer, prompt, settings, keep)

    def complete(self, prompt: RawPrompt, settings: AnswerSettings) -> AnswerStream:
        """What follows `prompt`, without a chat template. Control tokens can be given as ids; in text they are text.

        Raises UsageError for an empty prompt.
        """
        ready = raw_prompt(prompt, self._tokenizer)
        self.end_answer()
        writer = Writer(self._decoder, self._tokenizer, settings=settings)
        return self._stream(writer, ready, settings, lambda: None)

    def end_answer(self) -> None:
        """End the running answer. Its text so far stays in the conversation. Raises UsageError if closed."""
        if not self.close.alive:
            raise UsageError("this conversation is closed")
        self.used = True
        running = self._running() if self._running else None
        if running is not None:
            running.close()

    def _stream(
        self, writer: Writer, prompt: Prompt, settings: AnswerSettings, keep: Callable[[], None]
    ) -> AnswerStream:
        sampling = settings.sampling or self._plan.model.sampling

        def ended() -> None:
            keep()
            reached = writer.stats.plain_tokens_per_s()
            if reached:
                keep_reached(self._plan.device.machine, self._plan.artifact.key, reached)

        stream = AnswerStream(writer, self._segments(writer.segments(prompt, sampling), ended))
        self._running = weakref.ref(stream)
        return stream

    def _segments(
        self, segments: Generator[Segment, None, None], keep: Callable[[], None]
    ) -> Generator[Segment, None, None]:
        try:
            with closing(segments):
                while self.close.alive:
                    segment = next(segments, None)
                    if segment is None:
                        return
                    yield segment
            raise UsageError("this conversation is closed")
        finally:
            keep()


def raw_prompt(prompt: RawPrompt, tokenizer: Tokenizer) -> Prompt:
    """A prompt without a chat template. Raises UsageError for an empty one, and for ids outside the vocabulary."""
    if isinstance(prompt, str):
        encode, bos = tokenizer.encode, tokenizer.bos_text
        prompt = [*encode(bos, special=True), *encode(prompt.removeprefix(bos), special=False)]
    if not prompt:
        raise UsageError("the prompt is empty")
    wrong = next((token for token in prompt if not 0 <= token < tokenizer.n_vocab), None)
    if wrong is not None:
        raise UsageError(f"token {wrong} is not in the vocabulary: ids are 0 to {tokenizer.n_vocab - 1}")
    return Prompt(tuple(prompt))


def as_messages(messages: Messages) -> list[Message]:
    """Raises UsageError unless this is a conversation that ends with a user message."""
    if isinstance(messages, str):
        messages = [Message("user", messages)]
    checked = [message if isinstance(message, Message) else from_mapping(message) for message in messages]
    if not checked or checked[-1].role != "user":
        raise UsageError("a conversation must end with a user message")
    if any(message.role == "system" for message in checked[1:]):
        raise UsageError("a system message can only come first")
    for message in checked:
        try:
            message.content.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError("a message holds characters that UTF-8 cannot carry") from None
    return checked


def from_mapping(message: Mapping[str, str]) -> Message:
    role, content = message.get("role"), message.get("content")
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise UsageError("a message needs a `role` (system, user or assistant) and a `content` of text")
    return Message(role, content)  # type: ignore[arg-type]  # checked above
