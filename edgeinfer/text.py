"""Text from outside: decoding of files and pipes, and removal of what could drive a terminal."""

from __future__ import annotations

import codecs
import re

from edgeinfer.errors import UsageError

__all__ = ["BOM", "decoded", "one_line", "shown", "utf_16_of"]

BOM = "\ufeff"
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_UTF_32 = {codecs.BOM_UTF32_LE: "utf-32-le", codecs.BOM_UTF32_BE: "utf-32-be"}  # the first begins as UTF-16 does
_CONTROLS = {*range(0x20), *range(0x7F, 0xA0)} - {ord("\n"), ord("\t")}
_BIDI_CONTROLS = {
    0x61C,
    0x200E,
    0x200F,
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
}  # they reorder the text around them
_NOT_SHOWN = dict.fromkeys(_CONTROLS | _BIDI_CONTROLS)


def utf_16_of(start: bytes) -> str | None:
    """The codec that a byte order mark of UTF-16 at the start of data announces."""
    return _UTF_16.get(start[:2])


def decoded(data: bytes, *, name: str) -> str:
    """UTF-8, or UTF-16 or UTF-32 with a byte order mark, which is no part of the text. Raises UsageError for anything
    else."""
    codec = _UTF_32.get(data[:4]) or utf_16_of(data) or "utf-8"
    try:
        return data.decode(codec).removeprefix(BOM)
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{name} is not {codec.upper()}: byte 0x{data[error.start]:02x} at offset {error.start}",
            hint="convert it, for example with `iconv -f latin1 -t utf-8`",
        ) from error


def shown(text: str) -> str:
    """Without the characters by which text could drive a terminal: control characters but newline and tab, and bidi
    controls. Every other one stays, even where Python's tables do not know it yet: the terminal's font decides.
    """
    return text.translate(_NOT_SHOWN)


def one_line(text: str) -> str:
    """As `shown`, with a space in place of line ends and tabs."""
    return shown(re.sub(r"[\r\n\t]+", " ", text))
