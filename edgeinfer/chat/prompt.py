"""Builds the Prompt of a conversation, with tokens that agree with those that the cache already holds."""

from __future__ import annotations

import copy
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from edgeinfer.chat.encoding import CONTEXT_CHARS, Encoder, unused_mark
from edgeinfer.chat.frames import CLOSERS, Frames, SystemPrompt, n_same
from edgeinfer.chat.reasoning import learn_reasoning, split_trace
from edgeinfer.chat.rendering import ConversationWriter, Written, n_before_question
from edgeinfer.chat.template import Template
from edgeinfer.chat.trace_formats import TraceFormat, open_trace
from edgeinfer.errors import UsageError
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Message, Prompt, common_prefix, compact

__all__ = ["NO_FORM", "AnswerForm", "PromptBuilder"]

NOTICES: Mapping[SystemPrompt, str] = {
    "dropped": "the model's template ignores a system prompt, so it is put before the first message",
    "refused": "the model's template takes no system prompt, so it is put before the first message",
    "moves": "the model's template writes the system prompt into the newest message: each turn is read from the start",
}
INCOMPLETE = "the model's template leaves out a part of what is said: `--template chatml` uses a plain one instead"
STAND_IN = "qotherx"  # replaces the first question, to find what comes before it


@dataclass(frozen=True, slots=True)
class AnswerForm:
    """How an answer may begin and end. It is `inside` a trace where the template began one."""

    traces: tuple[TraceFormat, ...]
    inside: TraceFormat | None = None
    stops: tuple[str, ...] = ()  # texts that end it
    stop_tokens: frozenset[int] = frozenset()


NO_FORM = AnswerForm(())
"""For a text without a template."""


class Marks:
    """Pairs of offsets, in order, at which text and tokens are known to agree: n characters are m tokens."""

    def __init__(self) -> None:
        self._chars, self._tokens = (
            compact([0]),
            compact([0]),
        )  # 8 bytes for each, because a chat may grow without limit

    @property
    def last(self) -> tuple[int, int]:
        return self._chars[-1], self._tokens[-1]

    def add(self, n_chars: int, n_tokens: int) -> None:
        self._chars.append(n_chars)
        self._tokens.append(n_tokens)

    def forget_after(self, n_chars: int) -> None:
        n = bisect_right(self._chars, n_chars)
        del self._chars[n:], self._tokens[n:]

    def tokens_at(self, n_chars: int) -> int | None:
        """The number of tokens of the first `n_chars` characters; None if it is not known."""
        at = bisect_right(self._chars, n_chars) - 1
        return self._tokens[at] if self._chars[at] == n_chars else None


class PromptBuilder:
    """Remembers the text and tokens of the last turn, so that an answer keeps the tokens that the model emitted.

    The tokens of an answer may differ from those of its encoded text. Encoding the text again would change earlier
    tokens, and the cache would have to be filled again from there.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer, *, tags: tuple[str, str] | None = None) -> None:
        """`tags` mark the model's reasoning, from the catalog."""
        self._template = template
        self._tokenizer = tokenizer
        sample = template.probe((Message("user", "x"), Message("assistant", "x"), Message("user", "x"))) or ""
        self._encoder = Encoder(tokenizer, template.source + sample)
        self._writer = ConversationWriter(template)
        self._mark = unused_mark(())
        self._text = ""
        self._tokens = compact()
        self._marks = Marks()
        self.reasoning = learn_reasoning(template, tokenizer, tags)
        self.opening = ""  # what the template wrote after the last message, to open the answer
        self.form = AnswerForm(self.reasoning.formats)
        self._form_of: tuple[Frames, str] | None = None  # the frames and the opening that `form` was made from
        self.notices: tuple[str, ...] = ()  # what the template does with the messages, if unusual

    def fresh(self) -> PromptBuilder:
        """A builder for the same template that remembers no conversation, so that its prompts depend only on the
        messages."""
        other = copy.copy(self)
        other._writer = self._writer.fresh()
        other._text, other._tokens, other._marks = "", compact(), Marks()
        return other

    def build(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> Prompt:
        """The prompt of the whole conversation. Its system prompt is everything before the first user message,
        including a BOS token and a date.

        Raises UsageError when the template refuses the conversation, or when its system prompt cannot be kept.
        """
        variables = variables or {}
        self._mark = unused_mark([text for message in messages for text in texts_of(message)])
        hidden = [self._hidden(message) for message in messages]
        n_folded = 0
        frames = self._writer.frames(variables)
        where = frames.system if hidden[0].role == "system" else "first"
        of_system = (NOTICES[where],) if where in NOTICES else ()
        self.notices = of_system if frames.writes_all else (*of_system, INCOMPLETE)
        if where in ("dropped", "refused") and len(hidden) > 1:
            rule = hidden[0].content + "\n\n"
            hidden = [replace(hidden[1], content=rule + hidden[1].content), *hidden[2:]]
            n_folded = len(rule)
        written = self._writer.write(hidden, variables)
        lead = written.ends[n_before_question(hidden)]
        if n_folded:
            lead = end_of(written.text, hidden[0].content, 0, n_folded)
        elif lead < 0 and where == "first":
            lead = self._start_of_question(written, variables)
        if lead < 0 and messages[0].role == "system" and where != "moves":
            raise UsageError(
                "the place of the system prompt in this template's text cannot be found, so a long chat would lose it",
                hint="`--template chatml` uses a plain template instead",
            )
        self._set(written.text, {end for end in (*written.ends, lead) if end >= 0})
        self.opening = self._opening(written)
        form_of = self._writer.frames(variables), self.opening
        if form_of != self._form_of:  # most turns have the same opening
            self.form, self._form_of = self._form(form_of[0]), form_of
        n_system = 0 if lead < 0 else self._marks.tokens_at(lead)
        if n_system is None:  # its last token also holds the first characters of the question
            n_system = common_prefix(self._encoder.encode(written.text[:lead], after="", mark=self._mark), self._tokens)
        starts = {tokens for end in written.ends if end >= 0 and (tokens := self._marks.tokens_at(end))}
        return Prompt(self._tokens, n_system, tuple(sorted(starts)))

    @property
    def text(self) -> str:
        """The text of the newest prompt and of the answer so far, with control tokens in messages hidden."""
        return self._text

    @property
    def always_parsed(self) -> frozenset[str]:
        """Known words that the tokenizer parses in every text."""
        return self._encoder.always_parsed

    def hide(self, text: str) -> str:
        """`text` of a message of the newest prompt, with its control tokens hidden."""
        return self._encoder.hide(text, self._mark)

    def answered(self, tokens: Sequence[int], text: str) -> None:
        """The model answered with `tokens`, whose text is `text`. Neither includes the token that ended the turn."""
        self._text += self.hide(text)
        self._tokens = self._tokens + compact(tokens)  # a new list, because a prompt holds the old one
        self._marks.add(len(self._text), len(self._tokens))

    def _form(self, frames: Frames) -> AnswerForm:
        formats, tokenizer = self.reasoning.formats, self._tokenizer
        lead = rest_of_lead(frames.assistant.before, self.opening) if frames.assistant else ""
        traces = formats
        if lead and not any(lead.startswith((known.opening, *known.before_answer)) for known in formats):
            traces = (replace(formats[0], before_answer=(*formats[0].before_answer, lead)), *formats[1:])
        return AnswerForm(
            traces,
            open_trace(self.opening, formats),
            frames.stops(tokenizer, formats),
            frames.stop_tokens(tokenizer, formats),
        )

    def _hidden(self, message: Message) -> Message:
        """The message, so that no text in it becomes a control token.

        A trace that an answer begins with is for the template to keep or drop: its marks stay, or it is reasoning.
        """

        hide = self.hide
        trace = split_trace(message.content, self.reasoning.formats) if message.role == "assistant" else None
        if trace and self.reasoning.is_read:
            message = replace(message, content=trace.answer.lstrip("\n"), reasoning=trace.thought.strip("\n"))
        content = hide(message.content)
        if trace and not self.reasoning.is_read:
            content = trace.opening + hide(trace.thought) + trace.closing + hide(trace.answer)

        calls = tuple(
            replace(call, name=hide(call.name), arguments=hide(call.arguments), id=hide(call.id))
            for call in message.tool_calls
        )
        return replace(
            message,
            content=content,
            tool_calls=calls,
            call_id=hide(message.call_id),
            name=hide(message.name),
            reasoning=hide(message.reasoning),
        )

    def _start_of_question(self, written: Written, variables: Mapping[str, Any]) -> int:
        """Where the first question begins in the text, found by rendering another one in its place; -1 if not found."""
        n_lead = n_before_question(written.messages)
        if n_lead == len(written.messages):
            return -1
        first = written.messages[: n_lead + 1]
        other = self._template.probe([*first[:-1], Message("user", STAND_IN)], variables)
        at = -1 if other is None else other.find(STAND_IN)
        return at if at > 0 and other is not None and written.text[:at] == other[:at] else -1

    def _opening(self, written: Written) -> str:
        text, end = written.text, written.ends[-1]
        if end < 0:
            end = end_of(text, written.messages[-1].content, max(0, *written.ends))
        return text[end if end >= 0 else -CONTEXT_CHARS :]  # the marks stay, so that a tag in a message begins no trace

    def _set(self, text: str, ends: set[int]) -> None:
        """Keep the tokens up to the last mark in the text that stayed the same, and encode the rest."""
        self._marks.forget_after(n_same(self._text, text))
        n_chars, n_tokens = self._marks.last
        before = text[max(0, n_chars - CONTEXT_CHARS) : n_chars]
        whole = self._encoder.encode(text[n_chars:], after=before, mark=self._mark)
        pieces: list[tuple[int, list[int]]] = []
        at = n_chars
        for end in sorted(end for end in ends if n_chars < end < len(text)):
            before = text[max(0, at - CONTEXT_CHARS) : at]
            pieces.append((end, self._encoder.encode(text[at:end], after=before, mark=self._mark)))
            at = end
        before = text[max(0, at - CONTEXT_CHARS) : at]
        pieces.append((len(text), self._encoder.encode(text[at:], after=before, mark=self._mark)))
        self._tokens = self._tokens[:n_tokens]
        if [token for _, piece in pieces for token in piece] == whole:
            for end, piece in pieces:
                n_tokens += len(piece)
                self._marks.add(end, n_tokens)
        self._tokens.extend(whole)
        if self._marks.last[0] < len(text):
            self._marks.add(len(text), len(self._tokens))
        self._text = text


def rest_of_lead(written: str, opening: str) -> str:
    """What a template writes before an answer in its history, beyond the `opening` that the model sees."""
    rest = written.removeprefix(opening).lstrip() if written.startswith(opening) else ""
    return rest.rstrip() if rest.rstrip().endswith(CLOSERS) else rest


def texts_of(message: Message) -> Iterator[str]:
    yield from (message.content, message.call_id, message.name, message.reasoning)
    for call in message.tool_calls:
        yield from (call.name, call.arguments, call.id)


def end_of(text: str, content: str, start: int, n_chars: int | None = None) -> int:
    """Where the first `n_chars` of the content (None: all) end in the text; -1 where the text does not hold it."""
    part = content if n_chars is None else content[:n_chars]
    for written in dict.fromkeys((part, part.strip())):
        if (at := text.find(written, start)) >= 0:
            return at + len(written)
    return -1
