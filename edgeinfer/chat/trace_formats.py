"""How models mark their reasoning, and which formats a model may use."""

from __future__ import annotations

import re
from collections.abc import Iterator

from edgeinfer.chat.encoding import MARK_LIKE
from edgeinfer.formats.chat_pieces import TraceFormat
from edgeinfer.protocols import Tokenizer

__all__ = ["THINK", "TraceFormat", "are_tokens", "may_use", "mentioned_in", "open_trace"]


def pair(name: str) -> TraceFormat:
    return TraceFormat(f"<{name}>", (f"</{name}>",))


THINK = pair("think")
_TO_FINAL = ("<|end|><|start|>assistant<|channel|>final<|message|>", "<|channel|>final<|message|>")
_TABLE = (
    THINK,
    pair("thinking"),
    pair("thought"),
    pair("Thought"),
    pair("reasoning"),
    pair("reason"),
    pair("seed:think"),  # Seed-OSS
    pair("mm:think"),  # MiniMax M3
    pair("think:opensource"),  # Hunyuan 3
    TraceFormat("[THINK]", ("[/THINK]",)),  # Magistral, Ministral
    TraceFormat("◁think▷", ("◁/think▷",)),  # Kimi-VL
    TraceFormat("<|START_THINKING|>", ("<|END_THINKING|>",), ("<|START_RESPONSE|>", "<|START_TEXT|>")),  # Command
    TraceFormat("<|channel>thought", ("<channel|>",)),  # Gemma 4
    TraceFormat("<unused94>thought", ("<unused95>",)),  # MedGemma
    TraceFormat("<|inner_prefix|>", ("<|inner_suffix|>",)),  # Apertus
    TraceFormat("<|begin_of_thought|>", ("<|end_of_thought|>",), ("<|begin_of_solution|>",)),  # OpenThinker
    TraceFormat("<|open|>think<|sep|>", ("<|close|>think<|sep|>",), ("<|open|>response<|sep|>",)),  # Kimi K3
    TraceFormat("<|think|>", ("<|end|><|begin|>assistant<|content|>",), ("<|content|>",)),  # Solar Open
    TraceFormat("<|channel|>analysis<|message|>", _TO_FINAL, _TO_FINAL[1:]),  # Harmony: gpt-oss
    TraceFormat("<|channel|>commentary<|message|>", _TO_FINAL),
    TraceFormat("Here are my reasoning steps:\n", ("[BEGIN FINAL RESPONSE]",)),  # Apriel
    TraceFormat("Here is my thought process:", ("Here is my response:",)),  # Granite 3.2
)
_TAG = re.compile(r"<([\w:-]*(?:think|thought|reason|reflect|analysis)[\w:-]*)>", re.IGNORECASE)


def may_use(source: str, tokenizer: Tokenizer, tags: tuple[str, str] | None) -> tuple[TraceFormat, ...]:
    """The formats that an answer may begin with: those in the template's Jinja `source` first.

    Then the catalog's `tags`, the formats whose marks are tokens of the vocabulary, and `<think>`, which models use
    whose template does not name it.
    """
    named = [] if tags is None else [format_of(tags)]
    in_vocabulary = [known for known in _TABLE if are_tokens(known.opening, tokenizer)]
    return tuple(dict.fromkeys([*mentioned_in(source), *named, *in_vocabulary, THINK]))


def mentioned_in(source: str) -> Iterator[TraceFormat]:
    """Formats of the table, and pairs of tags whose name suggests reasoning, that a template contains."""
    for known in _TABLE:
        ends = (known.closings[0], (MARK_LIKE.findall(known.closings[0]) or known.closings)[-1])
        starts = (known.opening, repr(known.opening)[1:-1])
        if any(start in source for start in starts) and any(end in source for end in ends):
            yield known
    for name in dict.fromkeys(_TAG.findall(source)):
        if f"</{name}>" in source and pair(name) not in _TABLE:
            yield pair(name)


def format_of(tags: tuple[str, str]) -> TraceFormat:
    opening, closing = tags
    return next((known for known in _TABLE if known.opening == opening), TraceFormat(opening, (closing,)))


def are_tokens(opening: str, tokenizer: Tokenizer) -> bool:
    marks = MARK_LIKE.findall(opening)
    return bool(marks) and all(len(tokenizer.encode(mark, special=True)) == 1 for mark in marks)


def open_trace(opening: str, formats: tuple[TraceFormat, ...]) -> TraceFormat | None:
    """The trace that the template itself has begun in `opening`, the text after the last message."""
    found = None
    last = -1
    for known in formats:
        at = opening.rfind(known.opening)
        if at > max(last, *(opening.rfind(closing) for closing in known.closings)):
            found, last = known, at
    if found is None and (tag := _TAG.search(opening.rstrip()[-64:])) and opening.rstrip().endswith(tag[0]):
        return pair(tag[1])
    return found
