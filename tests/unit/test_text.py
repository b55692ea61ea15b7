"""Text from outside: which characters a terminal may show, and which bytes are text."""

import unicodedata

import pytest

from edgeinfer.errors import UsageError
from edgeinfer.text import decoded, one_line, shown

KEPT = {
    "no-break space": "10\u00a0km",
    "narrow no-break space": "1\u202f000",
    "thin, en, em and figure space": "a\u2009b\u2002c\u2003d\u2007e",
    "ideographic space": "東\u3000京",
    "zero-width non-joiner": "می\u200cخواهم",
    "zero-width joiner": "👩\u200d👩\u200d👧",
    "variation selector": "❤\ufe0f",
    "tags": "🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "soft hyphen": "co\u00adop",
    "word joiner": "a\u2060b",
    "private use": "\ue0b0",
    "unassigned": "\U0001fae9 \U0003134f",
    "line and paragraph separator": "a\u2028b\u2029c",
    "newline and tab": "a\n\tb",
}
REMOVED = [
    *(chr(code) for code in range(0x20) if chr(code) not in "\n\t"),
    *map(chr, range(0x7F, 0xA0)),
    *"\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",
]


@pytest.mark.parametrize("text", KEPT.values(), ids=KEPT)
def test_printable_characters_are_shown(text: str) -> None:
    assert shown(text) == text


@pytest.mark.parametrize("character", REMOVED, ids=lambda character: f"U+{ord(character):04X}")
def test_control_and_bidirectional_characters_are_removed(character: str) -> None:
    assert shown(f"a{character}b") == "ab"


def test_nothing_else_is_removed() -> None:
    every = "".join(map(chr, range(0x110000)))
    removed = set(every) - set(shown(every))
    assert removed == set(REMOVED)
    assert {unicodedata.category(character) for character in removed} == {"Cc", "Cf"}


def test_one_line_removes_line_ends() -> None:
    assert one_line("a\r\n\tb\u3000c\033[2J") == "a b\u3000c[2J"


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("text", ["", "héllo 😀\n", "\u0a0a\u010a\n"])
def test_a_byte_order_mark_at_the_start_is_removed(codec: str, text: str) -> None:
    mark = "\ufeff" if codec.startswith(("utf-16", "utf-32")) else ""
    assert decoded((mark + text).encode(codec), name="x") == text


def test_a_byte_order_mark_inside_a_text_stays() -> None:
    assert decoded("a\ufeffb".encode(), name="x") == "a\ufeffb"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"caf\xe9", "x is not UTF-8: byte 0xe9 at offset 3"),
        (b"\xff\xfea\x00b", "x is not UTF-16-LE: byte 0x62 at offset 4"),
    ],
)
def test_bytes_that_are_not_text_are_refused(data: bytes, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        decoded(data, name="x")
