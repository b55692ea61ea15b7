"""Learns what a template writes around messages, for a phone, and proves it on made-up conversations."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from edgeinfer.chat.encoding import Encoder, unused_mark
from edgeinfer.chat.frames import RULE, TALK, gaps_between, learn_frames, n_same
from edgeinfer.chat.prompt import encoder_of, hidden_in
from edgeinfer.chat.template import Template
from edgeinfer.chat.trace_formats import THINK, may_use, mentioned_in, open_trace
from edgeinfer.errors import ArtifactError, EdgeInferError
from edgeinfer.formats.chat_pieces import (
    DATE_MARKS,
    ROLES,
    STRIPPED,
    ChatPieces,
    Lead,
    Pieces,
    ThinkingCut,
    text_of,
)
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Message, Role

__all__ = ["N_CONVERSATIONS", "chat_pieces", "conversations"]

N_CONVERSATIONS: Final = 200
DATE_FORM: Final = re.compile(r"(?:[^%]|%[dbBYmyAaHM])*")  # what the phone writes in a date
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
    encoder = encoder_of(template, tokenizer)
    words = tuple(sorted(encoder.always_parsed))  # before it learns those of the conversations below
    traces = may_use(template.source, tokenizer, None)
    learned = []
    for variables in ({"enable_thinking": True}, no_thinking):
        pieces = learn_pieces(template, tokenizer, encoder, variables)
        prove(pieces, template, encoder, variables)
        learned.append(replace(pieces, begun=open_trace(pieces.opening, traces)))
    return ChatPieces(words, traces, *learned)


def learn_pieces(template: Template, tokenizer: Tokenizer, encoder: Encoder, variables: Mapping[str, Any]) -> Pieces:
    frames = learn_frames(template, variables)
    text = template.probe(TALK, variables)
    gaps = None if text is None else gaps_between(text, [message.content for message in TALK])
    user, assistant = frames.user, frames.assistant
    if gaps is None or user is None or assistant is None or not gaps[-1].startswith(user.after):
        raise cannot("it does not write every question and every answer in one way")
    if frames.system == "moves":
        raise cannot("it does not write the system prompt before the first question")
    pieces = Pieces(
        plain=lead(gaps[0], "", user.before),
        system=None,
        user=user,
        assistant=assistant,
        opening=gaps[-1].removeprefix(user.after),
        stops=frames.stops(tokenizer),
    )
    check_dates(pieces)
    if frames.system == "first":
        asked = template.probe([Message("system", RULE), *TALK], variables) or ""
        around = gaps_between(asked, [RULE, TALK[0].content])
        if around is None:
            raise cannot("it does not write the system prompt as it is")
        pieces = replace(pieces, system=lead(around[0], around[1], user.before))
    pieces = replace(pieces, stripped=tuple(role for role in ROLES if is_stripped(role, pieces, template, variables)))
    return replace(pieces, cut=learn_cut(pieces, template, encoder, variables))


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


def learn_cut(pieces: Pieces, template: Template, encoder: Encoder, variables: Mapping[str, Any]) -> ThinkingCut | None:
    """How reasoning is left out of earlier answers. Marks that are tokens stay text in an answer: None for them."""
    for trace in dict.fromkeys([*mentioned_in(template.source), THINK]):
        closing = trace.closings[0]
        if encoder.hide(closing, unused_mark(())) != closing:
            continue
        content = f"{trace.opening}\nwhy\n{closing}\n\n \nqreply"
        talk = [replace(message, content=content) if message.role == "assistant" else message for message in TALK]
        text = template.probe(talk, variables)
        for strips in STRIPPED:
            cut = ThinkingCut(closing, strips)
            if text == text_of(replace(pieces, cut=cut), talk):
                return cut
    return None


def prove(pieces: Pieces, template: Template, encoder: Encoder, variables: Mapping[str, Any]) -> None:
    for number, messages in enumerate(conversations(), start=1):
        mark = unused_mark([message.content for message in messages])
        hidden = [hidden_in(message, encoder, mark) for message in messages]
        rendered = hidden if pieces.system is not None else folded(hidden)
        try:
            expected = template.render(rendered, variables)
        except EdgeInferError as error:
            raise cannot(f"conversation {number} of {N_CONVERSATIONS}: {error}; {summary(messages)}") from error
        written = text_of(pieces, hidden)
        if written != expected:
            at = n_same(written, expected)
            raise cannot(
                f"conversation {number} of {N_CONVERSATIONS} differs after {expected[max(0, at - 20) : at]!r}: "
                f"{expected[at : at + 40]!r}, and from pieces {written[at : at + 40]!r}; {summary(messages)}"
            )


def folded(messages: Sequence[Message]) -> Sequence[Message]:
    """The system prompt before the first question, as PromptBuilder puts it where a template takes none."""
    if messages[0].role != "system":
        return messages
    system, first, *rest = messages
    return [replace(first, content=f"{system.content}\n\n{first.content}"), *rest]


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
