"""From a conversation to a Prompt whose tokens agree with those that the cache already holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgeinfer.chat.template import Template
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Message, Prompt, compact

MAX_NEW_PREFIXES = (
    32  # message starts looked for in one turn: each costs a render, and only the newest serve re-anchoring
)


@dataclass(frozen=True, slots=True)
class Mark:
    """A place where text and tokens are known to agree: `n_chars` of text are `n_tokens` tokens."""

    n_chars: int
    n_tokens: int


class PromptBuilder:
    """Remembers the text and tokens of the last turn, so that what the model said is kept as the tokens it said.

    An answer's tokens need not be those that its text encodes to. Encoding it again would change the past, and the
    cache would have to be filled again from there.
    """

    def __init__(self, template: Template, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer
        self._text = ""
        self._tokens = compact()
        self._marks: list[Mark] = [Mark(0, 0)]
        self._ends: dict[int, int] = {}  # n messages -> where their text ends, in `_text`; 0: where the first begins
        self._messages: tuple[Message, ...] = ()
        self.opening = ""  # what the template wrote after the last message, to open the answer

    def build(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> Prompt:
        """The prompt of the whole conversation. Its system prompt is all that the template writes before the first
        message of the user, a BOS token and a date as well."""
        known = self._known_ends(messages)
        wanted = [n for n in range(1, len(messages) + 1) if n not in known]
        if len(wanted) > MAX_NEW_PREFIXES:
            wanted = [wanted[0], *wanted[1 - MAX_NEW_PREFIXES :]]  # the first may be the system prompt
        n_lead = 1 if messages[0].role == "system" else 0  # messages before the first of the user
        rendered = self._template.render(messages, prefixes=wanted, lead=n_lead not in known, variables=variables)
        same = n_same(self._text, rendered.text)
        ends = {n: end for n, end in known.items() if end <= same} | dict(rendered.ends)
        if rendered.lead is not None:
            ends.setdefault(n_lead, rendered.lead)
        self._set(rendered.text, list(ends.values()), same)
        self._messages, self._ends = tuple(messages), ends
        self.opening = rendered.text[ends.get(len(messages), len(rendered.text)) :]
        token_at = {mark.n_chars: mark.n_tokens for mark in self._marks}
        n_system = token_at.get(ends.get(n_lead, -1), 0)
        starts = tuple(sorted({token_at[end] for end in ends.values() if end in token_at} - {0}))
        return Prompt(self._tokens, n_system, starts)

    def answered(self, tokens: Sequence[int], text: str) -> None:
        """The model went on with `tokens`, which read `text`; the token that ended the turn is in neither."""
        self._text += text
        self._tokens = self._tokens + compact(tokens)  # not in place: a prompt holds the one before
        self._marks.append(Mark(len(self._text), len(self._tokens)))

    def _known_ends(self, messages: Sequence[Message]) -> dict[int, int]:
        same = 0
        for old, new in zip(self._messages, messages, strict=False):
            if old != new:
                break
            same += 1
        return {n: end for n, end in self._ends.items() if n <= same}

    def _set(self, text: str, ends: Sequence[int], same: int) -> None:
        """Keep the tokens up to the last mark in the text that stayed the same, and encode the rest."""
        marks = [mark for mark in self._marks if mark.n_chars <= same]
        at = marks[-1]
        tokens = self._tokens[: at.n_tokens]
        tail = text[at.n_chars :]
        whole = self._tokenizer.encode(tail, special=True)
        cuts = [end - at.n_chars for end in sorted(set(ends)) if at.n_chars < end < len(text)]
        pieces = [
            self._tokenizer.encode(tail[begin:end], special=True)
            for begin, end in zip([0, *cuts], [*cuts, len(tail)], strict=True)
        ]
        if [token for piece in pieces for token in piece] == whole:
            n_tokens = at.n_tokens
            for cut, piece in zip(cuts, pieces, strict=False):
                n_tokens += len(piece)
                marks.append(Mark(at.n_chars + cut, n_tokens))
        tokens.extend(whole)
        marks.append(Mark(len(text), len(tokens)))
        self._text, self._tokens, self._marks = text, tokens, marks


def n_same(a: str, b: str) -> int:
    """Length of the common beginning, by bisection: comparing slices is quicker than comparing characters."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[:middle] == b[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
