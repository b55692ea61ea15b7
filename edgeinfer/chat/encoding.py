"""Rendered text to tokens, so that only what the template itself wrote becomes a control token.

Before a message is rendered, `Encoder.hide` puts a mark into every control token that its content spells. The template
sees ordinary text, and in the rendered text the mark separates the user's `<|im_end|>` from the template's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from edgeinfer.protocols import Tokenizer

__all__ = ["CONTEXT_CHARS", "MARK_LIKE", "Encoder", "encode_continuation", "unused_mark"]

NONCHARACTERS = ("\ufdd0", "\ufdd1")  # noncharacters of Unicode, which no text needs
MARK_LIKE = re.compile(r"[<\[◁{][^\s<>\[\]◁▷{}'\"]{1,60}[>\]▷}]")  # how templates spell their tokens
HTML_TAG = re.compile(r"</?[A-Za-z][A-Za-z0-9]*>")  # one token in some vocabularies, but not a mark of a turn
MOST_REMEMBERED = 4096
CONTEXT_CHARS = 64  # read before a text, to encode it as a continuation
BYTE_ANCHOR = "\x01"  # a byte token in SentencePiece, which merges with nothing


class Encoder:
    """A tokenizer for the texts of one template. `written` is its Jinja source and samples of what it writes.

    Some tokens are parsed even with `special=False`: words that the model's author added. Those that the template
    writes, and those that look like nothing else, are hidden in messages as control tokens are.
    """

    def __init__(self, tokenizer: Tokenizer, written: str) -> None:
        self._tokenizer = tokenizer
        self._always_parsed = {word for word in set(MARK_LIKE.findall(written)) if self._is_parsed(word)}
        self._not_parsed: set[str] = set()
        self._control = one_of(tokenizer.control_texts | self._always_parsed)

    def hide(self, content: str, mark: str) -> str:
        """`content` with `mark` after the first character of every control token in it."""
        self._learn_marks(content)
        if self._control is None:
            return content
        hidden = content
        while self._control.search(hidden):  # again, because one token may overlap the next
            hidden = self._control.sub(lambda found: found[0][0] + mark + found[0][1:], hidden)
        return hidden

    def _learn_marks(self, content: str) -> None:
        words = {word for word in MARK_LIKE.findall(content) if not HTML_TAG.fullmatch(word)}
        parsed = {word for word in words - self._always_parsed - self._not_parsed if self._is_parsed(word)}
        if len(self._not_parsed) < MOST_REMEMBERED:
            self._not_parsed |= words - parsed
        if parsed:
            self._always_parsed |= parsed
            self._control = one_of(self._tokenizer.control_texts | self._always_parsed)

    def _is_parsed(self, word: str) -> bool:
        return len(self._tokenizer.encode(word, special=False)) == 1

    @property
    def always_parsed(self) -> frozenset[str]:
        """The words known so far that the tokenizer parses in every text."""
        return frozenset(self._always_parsed)

    def encode(self, text: str, *, after: str, mark: str) -> list[int]:
        """The tokens of `text` where it follows `after`. Text around a mark is encoded without control tokens."""
        tokens: list[int] = []
        after = after.replace(mark, "")
        for piece in self._pieces(text, mark):
            is_literal = mark in piece
            for part in self._parts(piece, mark) if is_literal else (piece,):
                tokens += encode_continuation(self._tokenizer, part, after=after, special=not is_literal)
                after = (after + part)[-CONTEXT_CHARS:]
        return tokens

    def _pieces(self, text: str, mark: str) -> Iterator[str]:
        """`text` cut so that a mark shares its piece with no control token of the template."""
        if mark not in text or self._control is None:
            yield text
            return
        plain = ""
        for piece in split_keeping(self._control, text):
            if mark in piece:
                if plain:
                    yield plain
                yield piece
                plain = ""
            else:
                plain += piece
        if plain:
            yield plain

    def _parts(self, piece: str, mark: str) -> Sequence[str]:
        whole = piece.replace(mark, "")
        if any(word in whole for word in self._always_parsed):
            return [part for part in piece.split(mark) if part]
        return (whole,)


def encode_continuation(tokenizer: Tokenizer, text: str, *, after: str, special: bool) -> list[int]:
    """The tokens of `text` where it follows `after`.

    SentencePiece may put a space before a text. That space belongs where the whole text would have it.
    """
    encode = tokenizer.encode
    adds_space = b"".join(map(tokenizer.piece, encode("x", special=False))) == b" x"
    if not (adds_space and after):
        return encode(text, special=special)
    before = encode(after, special=True)
    if special:
        both = encode(after + text, special=True)
        if both[: len(before)] == before:
            return both[len(before) :]
    elif not tokenizer.piece(before[-1]):
        return encode(text, special=False)  # after a control token
    anchor = encode(BYTE_ANCHOR, special=False)
    return encode(BYTE_ANCHOR + text, special=special)[len(anchor) :]


def one_of(words: Iterable[str]) -> re.Pattern[str] | None:
    """The longest first, as a tokenizer reads them."""
    ordered = sorted((word for word in words if len(word) > 1), key=lambda word: (-len(word), word))
    return re.compile("|".join(map(re.escape, ordered))) if ordered else None


def split_keeping(pattern: re.Pattern[str], text: str) -> Iterator[str]:
    at = 0
    for found in pattern.finditer(text):
        yield text[at : found.start()]
        yield found[0]
        at = found.end()
    yield text[at:]


def unused_mark(contents: Sequence[str]) -> str:
    """A mark that is in none of the contents."""
    mark, longer = NONCHARACTERS
    while any(mark in content for content in contents):
        mark += longer
    return mark
