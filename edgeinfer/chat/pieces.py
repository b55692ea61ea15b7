"""Learns what a template writes around messages, for a phone, and proves it on made-up conversations."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, get_args

from edgeinfer.chat.frames import RULE, TALK, gaps_between, learn_frames, n_same
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.reasoning import split_trace
from edgeinfer.chat.template import Template
from edgeinfer.chat.trace_formats import THINK, mentioned_in
from edgeinfer.errors import ArtifactError, EdgeInferError
from edgeinfer.formats.chat_pieces import (
    DATE_MARKS,
    ROLES,
    ChatPieces,
    Lead,
    Pieces,
    Strips,
    ThinkingCut,
)
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Message, Role

__all__ = ["N_CONVERSATIONS", "chat_pieces", "conversations", "text_of"]

N_CONVERSATIONS: Final = 200
DATE_FORM: Final = re.compile(r"(?:[^%]|%[dbBYmyAaHM])*")  # what the phone writes in a date
STRIPPED: Final[Mapping[Strips, str | None]] = {"nothing": "", "newlines": "\n", "space": None}  # for `str.lstrip`
CONTENTS: Final = (
    *(
        "Hello",
        "What is 2 + 2?\n",
        "  spaces around \t",
        "\n\nlines\n\n",
        "é ü 你好 👩‍👩‍👧‍👦",
        "x" * 300,
        "\u00a0x\u3000",
    ),
    *(
        "<think>\nwhy\n</think>\n\n because",
        "</think>",
        "a</think>\n b",
        "<thinking>x</thinking> y",
        "[THINK]x[/THINK]y",
    ),
    *(
        "{{ messages }}{% raw %}",
        "[INST] x [/INST]",
        "<<SYS>>\nx\n<</SYS>>",
        "<|im_end|>\n<|im_start|>user\n",
        "<b>bold</b>",
    ),
    *("</s><s>", "<|eot_id|>", "### Assistant:\n", "list[i] = [x]", "def f(x):\n\treturn x", "user", "system", "."),
)


def chat_pieces(template: Template, tokenizer: Tokenizer, no_thinking: Mapping[str, Any]) -> ChatPieces:
    """The pieces with and without reasoning. Raises ArtifactError, with the first conversation that differs."""
    template = template.with_date_forms()
    builder = PromptBuilder(template, tokenizer)
    words = tuple(sorted(builder.always_parsed))  # before it learns those of the conversations below
    learned = []
    for variables in ({"enable_thinking": True}, no_thinking):
        pieces = learn_pieces(template, builder, variables)
        prove(pieces, builder, variables)
        learned.append(pieces)
    return ChatPieces(words, *learned)


def text_of(pieces: Pieces, messages: Sequence[Message], hide: Callable[[str], str] = str) -> str:
    """The conversation with the opening of the next answer. `hide` is applied to what messages say."""
    system, turns = (messages[0], messages[1:]) if messages[0].role == "system" else (None, messages)
    lead = pieces.plain
    parts = [lead.before]
    if system is not None and pieces.system is None:
        turns = [replace(turns[0], content=f"{system.content}\n\n{turns[0].content}"), *turns[1:]]
    elif system is not None and pieces.system is not None:
        lead = pieces.system
        parts = [lead.before, shown(pieces, system, hide), lead.after]
    for index, message in enumerate(turns):
        frame = pieces.user if message.role == "user" else pieces.assistant
        parts += [frame.before if index else lead.question, shown(pieces, message, hide), frame.after]
    return "".join([*parts, pieces.opening])


def shown(pieces: Pieces, message: Message, hide: Callable[[str], str]) -> str:
    content, kept = message.content, ""
    trace = split_trace(content, pieces.traces) if message.role == "assistant" else None
    if trace:
        content = trace.answer
        if pieces.earlier_trace == "kept":
            kept = trace.opening + hide(trace.thought) + trace.closing
        else:
            content = content.lstrip(STRIPPED[pieces.earlier_trace])
    content = kept + hide(content)
    cut = pieces.cut
    if message.role == "assistant" and cut is not None and cut.closing in content:
        content = content.rpartition(cut.closing)[2].lstrip(STRIPPED[cut.strips])
    return content.strip() if message.role in pieces.stripped else content


def learn_pieces(template: Template, builder: PromptBuilder, variables: Mapping[str, Any]) -> Pieces:
    frames = learn_frames(template, variables)
    text = template.probe(TALK, variables)
    gaps = None if text is None else gaps_between(text, [message.content for message in TALK])
    user, assistant = frames.user, frames.assistant
    if gaps is None or user is None or assistant is None or not gaps[-1].startswith(user.after):
        raise cannot("it does not write every question and every answer in one way")
    if frames.system == "moves":
        raise cannot("it does not write the system prompt before the first question")
    form = built(builder, TALK, variables).form
    pieces = Pieces(
        plain=lead(gaps[0], "", user.before),
        system=None,
        user=user,
        assistant=assistant,
        opening=gaps[-1].removeprefix(user.after),
        traces=form.traces,
        begun=form.inside,
        stops=form.stops,
        stop_tokens=tuple(sorted(form.stop_tokens)),
    )
    check_dates(pieces)
    if frames.system == "first":
        asked = template.probe([Message("system", RULE), *TALK], variables) or ""
        around = gaps_between(asked, [RULE, TALK[0].content])
        if around is None:
            raise cannot("it does not write the system prompt as it is")
        pieces = replace(pieces, system=lead(around[0], around[1], user.before))
    pieces = replace(pieces, stripped=tuple(role for role in ROLES if is_stripped(role, pieces, template, variables)))
    pieces = replace(pieces, cut=learn_cut(pieces, template, builder, variables))
    return with_earlier_trace(pieces, builder, variables)


def built(builder: PromptBuilder, messages: Sequence[Message], variables: Mapping[str, Any]) -> PromptBuilder:
    """A builder whose newest prompt is of `messages`. Raises ArtifactError where it cannot be made."""
    fresh = builder.fresh()
    try:
        fresh.build(messages, variables)
    except EdgeInferError as error:
        raise cannot(f"{error}; {summary(messages)}") from error
    return fresh


def lead(before: str, after: str, question: str) -> Lead:
    """The texts before the first question, less what opens it."""
    last = after or before
    opens = question if last.endswith(question) else ""
    kept = last[: len(last) - len(opens)]
    return Lead(before, kept, opens) if after else Lead(kept, "", opens)


def check_dates(pieces: Pieces) -> None:
    start, end = DATE_MARKS
    for form in re.findall(f"{start}(.*?){end}", pieces.plain.before):
        if not DATE_FORM.fullmatch(form):
            raise cannot(f"it writes the date as `{form[:40]}`")


def is_stripped(role: Role, pieces: Pieces, template: Template, variables: Mapping[str, Any]) -> bool:
    system = () if pieces.system is None else (Message("system", RULE),)
    talk = [
        replace(message, content=f" \n{message.content}\n\t ") if message.role == role else message
        for message in (*system, *TALK)
    ]
    return template.probe(talk, variables) == text_of(replace(pieces, stripped=(*pieces.stripped, role)), talk)


def learn_cut(
    pieces: Pieces, template: Template, builder: PromptBuilder, variables: Mapping[str, Any]
) -> ThinkingCut | None:
    """How a template cuts answers at a closing mark that is no token, wherever it stands; None where it does not."""
    for trace in dict.fromkeys([*mentioned_in(template.source), THINK]):
        closing = trace.closings[0]
        if builder.hide(closing) != closing:
            continue
        talk = answering(f"why\n{closing}\n\n \nqreply")
        text = template.probe(talk, variables)
        for strips in get_args(Strips):
            cut = ThinkingCut(closing, strips)
            if text == text_of(replace(pieces, cut=cut), talk):
                return cut
    return None


def with_earlier_trace(pieces: Pieces, builder: PromptBuilder, variables: Mapping[str, Any]) -> Pieces:
    trace = pieces.traces[0]
    talk = answering(f"{trace.opening}\nwhy\n{trace.closings[0]}\n\n \nqreply")
    fresh = built(builder, talk, variables)
    for earlier in get_args(Strips):
        candidate = replace(pieces, earlier_trace=earlier)
        if text_of(candidate, talk, fresh.hide) == fresh.text:
            return candidate
    return pieces


def answering(content: str) -> list[Message]:
    return [replace(message, content=content) if message.role == "assistant" else message for message in TALK]


def prove(pieces: Pieces, builder: PromptBuilder, variables: Mapping[str, Any]) -> None:
    for number, messages in enumerate(conversations(), start=1):
        fresh = built(builder, messages, variables)
        written, expected = text_of(pieces, messages, fresh.hide), fresh.text
        if written != expected:
            at = n_same(written, expected)
            raise cannot(
                f"conversation {number} of {N_CONVERSATIONS} differs after {expected[max(0, at - 20) : at]!r}: "
                f"{expected[at : at + 40]!r}, and from pieces {written[at : at + 40]!r}; {summary(messages)}"
            )


def conversations() -> Iterator[list[Message]]:
    rng = random.Random(1)
    for _ in range(N_CONVERSATIONS):
        messages = [Message("system", rng.choice(CONTENTS))] if rng.random() < 0.5 else []
        for _ in range(rng.choice((0, 1, 1, 2, 3, 6))):
            messages += [Message("user", rng.choice(CONTENTS)), Message("assistant", rng.choice(CONTENTS))]
        yield [*messages, Message("user", rng.choice(CONTENTS))]


def summary(messages: Sequence[Message]) -> str:
    return json.dumps([[message.role, message.content] for message in messages], ensure_ascii=True)[:300]


def cannot(what: str) -> ArtifactError:
    return ArtifactError(
        f"a phone cannot write with this model's chat template: {what}", hint="`--template chatml` takes a plain one"
    )
