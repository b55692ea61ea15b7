"""Turns the bytes of tokens into text. A token may hold part of a character, so text is returned when a character
is complete."""

from __future__ import annotations

import codecs


class Utf8Stream:
    """Feed bytes, get the text that is complete. Bytes that can never be UTF-8 become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def finish(self, *, cut: bool = False) -> str:
        """What is left at the end: U+FFFD for an incomplete last character, or nothing if the text was cut."""
        return "" if cut else self._decoder.decode(b"", final=True)
