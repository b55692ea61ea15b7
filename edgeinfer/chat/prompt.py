"""From a conversation to a Prompt whose tokens agree with those that the cache already holds."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from edgeinfer.chat.template import Template
from edgeinfer.protocols import Tokenizer
from edgeinfer.types import Message, Prompt, compact

MAX_NEW_PREFIXES = (
    32  # message starts looked for in one turn: each costs a render, and only the newest serve re-anchoring
)


class Marks:
    """Places, in order, where text and tokens are known to agree: so many characters are so many tokens."""

    def __init__(self) -> None:
        self._chars, self._tokens = compact([0]), compact([0])  # 8 bytes a place, as a chat may have no end

    @property
    def last(self) -> tuple[int, int]:
        return self._chars[-1], self._tokens[-1]

    def add(self, n_chars: int, n_tokens: int) -> None:
        self._chars.append(n_chars)
        self._tokens.append(n_tokens)

    def forget_behind(self, n_chars: int) -> None:
        n = bisect_right(self._chars, n_chars)
        del self._chars[n:], self._tokens[n:]

    def tokens_at(self, n_chars: int) -> int | None:
        """The tokens of the first `n_chars` characters; None where that is not known."""
        at = bisect_right(self._chars, n_chars) - 1
        return self._tokens[at] if self._chars[at] == n_chars else None


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
        self._marks = Marks()
        # By n messages: where their text ends in `_text`, or -1; of 0 messages: where the first begins.
        self._ends = compact([-1])
        self._messages: tuple[Message, ...] = ()
        self.opening = ""  # what the template wrote after the last message, to open the answer

    def build(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> Prompt:
        """The prompt of the whole conversation. Its system prompt is all that the template writes before the first
        message of the user, a BOS token and a date as well."""
        known = self._known_ends(messages)
        wanted = [n for n in range(1, len(messages) + 1) if known[n] < 0]
        if len(wanted) > MAX_NEW_PREFIXES:
            wanted = [wanted[0], *wanted[1 - MAX_NEW_PREFIXES :]]  # the first may be the system prompt
        n_lead = 1 if messages[0].role == "system" else 0  # messages before the first of the user
        rendered = self._template.render(messages, prefixes=wanted, lead=known[n_lead] < 0, variables=variables)
        same = n_same(self._text, rendered.text)
        ends = compact([end if end <= same else -1 for end in known])
        for n, end in rendered.ends.items():
            ends[n] = end
        if rendered.lead is not None and ends[n_lead] < 0:
            ends[n_lead] = rendered.lead
        self._set(rendered.text, [end for end in ends if end >= 0], same)
        self._messages, self._ends = tuple(messages), ends
        self.opening = rendered.text[ends[-1] if ends[-1] >= 0 else len(rendered.text) :]
        n_system = self._marks.tokens_at(ends[n_lead]) or 0
        starts = {tokens for end in ends if end >= 0 and (tokens := self._marks.tokens_at(end))}
        return Prompt(self._tokens, n_system, tuple(sorted(starts)))

    def answered(self, tokens: Sequence[int], text: str) -> None:
        """The model went on with `tokens`, which read `text`; the token that ended the turn is in neither."""
        self._text += text
        self._tokens = self._tokens + compact(tokens)  # not in place: a prompt holds the one before
        self._marks.add(len(self._text), len(self._tokens))

    def _known_ends(self, messages: Sequence[Message]) -> array[int]:
        """As `_ends`, for these messages."""
        same = 0
        for old, new in zip(self._messages, messages, strict=False):
            if old != new:
                break
            same += 1
        return self._ends[: same + 1] + compact([-1] * (len(messages) - same))

    def _set(self, text: str, ends: Sequence[int], same: int) -> None:
        """Keep the tokens up to the last mark in the text that stayed the same, and encode the rest."""
        self._marks.forget_behind(same)
        n_chars, n_tokens = self._marks.last
        tokens = self._tokens[:n_tokens]
        tail = text[n_chars:]
        whole = self._tokenizer.encode(tail, special=True)
        cuts = [end - n_chars for end in sorted(set(ends)) if n_chars < end < len(text)]
        pieces = [
            self._tokenizer.encode(tail[begin:end], special=True)
            for begin, end in zip([0, *cuts], [*cuts, len(tail)], strict=True)
        ]
        if [token for piece in pieces for token in piece] == whole:
            for cut, piece in zip(cuts, pieces, strict=False):
                n_tokens += len(piece)
                self._marks.add(n_chars + cut, n_tokens)
        tokens.extend(whole)
        self._marks.add(len(text), len(tokens))
        self._text, self._tokens = text, tokens


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
