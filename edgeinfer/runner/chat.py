"""A Chat: its messages, and the conversation that answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Unpack

from edgeinfer.errors import UsageError
from edgeinfer.runner.answer import Answer, AnswerOptions, AnswerSettings, AnswerStream
from edgeinfer.runner.conversation import Conversation
from edgeinfer.types import Message, Sampling


class Chat:
    """One conversation. `LoadedModel.chat` makes it. Earlier messages are not run again.

    `system` is the system prompt, which may change between two answers; `turns` are the questions and answers;
    `answer` is the last answer. A context manager; `close` may be called twice.
    """

    def __init__(self, conversation: Conversation, usual: Sampling, system: str, settings: AnswerSettings) -> None:
        self.system = system
        self.answer: Answer | None = None
        self._conversation = conversation
        self._usual = usual
        self._settings = settings
        self.turns: list[Message] = []

    @property
    def messages(self) -> list[Message]:
        """The whole conversation, the system prompt first. Assign to it to continue another one."""
        return [*([Message("system", self.system)] if self.system else []), *self.turns]

    @messages.setter
    def messages(self, messages: Iterable[Message]) -> None:
        messages = list(messages)
        if any(message.role == "system" for message in messages[1:]):
            raise UsageError("a system message can only come first")
        has_system = bool(messages) and messages[0].role == "system"
        self.system = messages[0].content if has_system else ""
        self.turns = messages[1:] if has_system else messages

    @property
    def notices(self) -> tuple[str, ...]:
        """Unexpected things that the template does with the newest prompt."""
        return self._conversation.notices

    def ask(self, text: str, **options: Unpack[AnswerOptions]) -> Answer:
        """The whole answer. Raises what `stream` raises."""
        return self.stream(text, **options).finish()

    def stream(self, text: str, **options: Unpack[AnswerOptions]) -> AnswerStream:
        """The answer, piece by piece. The question and what was read of the answer become part of `messages`.

        `options` replace those of the chat for this answer. Each answer has a seed of its own: the sampling's seed
        plus the number of messages before. Raises UsageError for text or options that cannot be used, EngineError
        when the engine fails.
        """
        self._conversation.end_answer()
        settings = replace(self._settings, **options)
        sampling = settings.sampling or self._usual
        settings = replace(settings, sampling=replace(sampling, seed=sampling.seed + len(self.turns)))
        question = Message("user", text)
        return self._conversation.answer([*self.messages, question], settings, partial(self._ended, question))

    def close(self) -> None:
        """Free the cache; the model stays loaded."""
        self._conversation.close()

    def __enter__(self) -> Chat:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ended(self, question: Message, answer: Answer) -> None:
        self.answer = answer
        if answer.text:  # a question without an answer would be sent again with the next one
            self.turns += [question, Message("assistant", answer.text)]
