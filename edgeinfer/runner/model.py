"""A LoadedModel: weights, tokenizer, chat template and measured costs, and the conversations that share them."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Unpack

from edgeinfer.chat.template import Template
from edgeinfer.decode.drafting import OpenedDraftModel, new_drafting
from edgeinfer.decode.loop import Decoder
from edgeinfer.decode.policy.costs import Costs
from edgeinfer.errors import UsageError
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Model, Tokenizer
from edgeinfer.runner.answer import Answer, AnswerOptions, AnswerSettings, AnswerStream
from edgeinfer.runner.chat import Chat
from edgeinfer.runner.conversation import Conversation, Messages, RawPrompt
from edgeinfer.types import Sampling


@dataclass(frozen=True, slots=True)
class Parts:
    """What a loaded model is made of; `edgeinfer.runner.opening` puts it together. `close` frees all of it, once."""

    model: Model
    template: Template
    draft: OpenedDraftModel | None
    costs: Costs | None  # None: the plan decodes plainly
    close: Callable[[], None]


class LoadedModel:
    """One plan, loaded. A context manager; `close` may be called twice and ends every conversation.

    `plan` says what was chosen and why; `notes` are sentences about how it was loaded. `chat` keeps a conversation.
    `stream` and `generate` take their whole input at once and share one conversation.
    """

    def __init__(self, plan: Plan, parts: Parts, *, notes: tuple[str, ...] = ()) -> None:
        """Owns `parts`. Prepares the first conversation, so that loading fails for a model that cannot answer."""
        self.plan = plan
        self.notes = notes
        self._parts = parts
        self._open: list[weakref.finalize[Any, Any]] = []
        self._closed = False
        self._own: Conversation | None = None
        try:
            self._own = self._new_conversation()
        except BaseException:
            self.close()
            raise

    @property
    def tokenizer(self) -> Tokenizer:
        return self._parts.model.tokenizer

    @property
    def sampling(self) -> Sampling:
        """What the model's authors recommend: the default of every answer."""
        return self.plan.model.sampling

    def chat(self, system: str = "", **options: Unpack[AnswerOptions]) -> Chat:
        """A new conversation with a cache of its own. `options` are the defaults of its answers.

        Raises UsageError when as many conversations as the plan has are open.
        """
        settings = AnswerSettings(**options)
        own, self._own = self._own, None
        if own is not None and own.used:  # a chat cannot use the cache of another conversation
            own.close()
            own = None
        return Chat(own or self._new_conversation(), self.sampling, system, settings)

    def stream(self, messages: Messages, **options: Unpack[AnswerOptions]) -> AnswerStream:
        """The answer to a whole conversation, or to one question. Tokens that the last call has run are not run again.

        Raises UsageError for messages or options that cannot be used, and when every conversation of the plan is taken
        by a chat.
        """
        return self._shared().answer(messages, AnswerSettings(**options))

    def generate(self, prompt: RawPrompt, **options: Unpack[AnswerOptions]) -> Answer:
        """Like `complete`, as one value."""
        return self.complete(prompt, **options).finish()

    def complete(self, prompt: RawPrompt, **options: Unpack[AnswerOptions]) -> AnswerStream:
        """What follows `prompt`, text or token ids, without a chat template. In text, control tokens are text.

        Raises what `stream` raises.
        """
        return self._shared().complete(prompt, AnswerSettings(**options))

    def close(self) -> None:
        """Free everything."""
        if self._closed:
            return
        self._closed = True
        for close in self._open:
            close()
        self._parts.close()

    def __enter__(self) -> LoadedModel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shared(self) -> Conversation:
        if self._own is None or not self._own.close.alive:
            self._own = self._new_conversation()
        return self._own

    def _new_conversation(self) -> Conversation:
        decoder, free = self._new_decoder()
        conversation = Conversation(self.plan, decoder, self._parts.model.tokenizer, self._parts.template, free)
        self._open.append(conversation.close)
        return conversation

    def _new_decoder(self) -> tuple[Decoder, Callable[[], None]]:
        """A decoder, and what frees it."""
        if self._closed:
            raise UsageError("this model is closed")
        self._open = [close for close in self._open if close.alive]
        n_planned = self.plan.n_conversations
        if len(self._open) >= n_planned:
            raise UsageError(
                f"{len(self._open)} of {n_planned} planned conversations are open",
                hint=f"close one, or plan more: Request(conversations={len(self._open) + 1})",
            )
        parts = self._parts
        with ExitStack() as stack:
            drafting = new_drafting(parts.model, self.plan, parts.costs, draft=parts.draft)
            stack.callback(drafting.close)
            decoder = Decoder(parts.model, self.plan.window, controller=drafting.controller, drafters=drafting.drafters)
            stack.callback(decoder.close)
            free = stack.pop_all().close
        parts.model.rest()  # costs were measured in this thread; perhaps another one asks
        return decoder, free


@dataclass(frozen=True, slots=True)
class Together:
    """The parts of a loaded model that a scheduler needs to run all conversations together."""

    model: Model
    template: Template
    decoders: tuple[Decoder, ...]  # one for each conversation of the plan


def together(loaded: LoadedModel) -> Together:
    """Open every conversation of the plan. They close with the model.

    Raises UsageError when a conversation is in use.
    """
    own, loaded._own = loaded._own, None
    if own is not None:
        own.close()
    decoders = []
    for _ in range(loaded.plan.n_conversations):
        decoder, free = loaded._new_decoder()
        loaded._open.append(weakref.finalize(decoder, free))  # `free` holds the decoder: alive until `close`
        loaded._open[-1].atexit = False
        decoders.append(decoder)
    return Together(loaded._parts.model, loaded._parts.template, tuple(decoders))
