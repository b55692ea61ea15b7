"""Writes the Unicode tables of mobile/runtime/text, as the `tokenizers` package has them.

unicode_table.inc holds the classes of characters: Oniguruma's \\p{L}, \\p{N} and \\s, and Rust's digits.
compositions.inc holds what NFC takes apart and puts together, combining_classes.inc the order of marks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Regex, __version__, normalizers, pre_tokenizers

FOLDER = Path(__file__).parents[1] / "mobile/runtime/text"
NFC, NFD = normalizers.NFC().normalize_str, normalizers.NFD().normalize_str
HANGUL = range(0xAC00, 0xD7A4)  # taken apart by a formula
CLASSES = {  # by the bits of unicode.h
    1: r"\p{L}",
    2: r"\p{N}",
    4: r"\s",
    8: r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]",
    16: r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]",
}
DIGIT = 32
STEP = 0x1000
N_CODES = 0x110000


def characters(start: int) -> str:
    return "".join(chr(code) for code in range(start, start + STEP) if not 0xD800 <= code < 0xE000)


def members(pattern: str) -> Iterator[int]:
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    for start in range(0, N_CODES, STEP):
        for piece, _ in splitter.pre_tokenize_str(characters(start)):
            yield from map(ord, piece)


def digits() -> Iterator[int]:
    splitter = pre_tokenizers.Digits(individual_digits=True)
    for start in range(0, N_CODES, STEP):
        text = "".join(f"a{character}a" for character in characters(start))
        yield from (ord(piece) for piece, _ in splitter.pre_tokenize_str(text) if len(piece) == 1 and piece != "a")


def decompositions() -> dict[str, str]:
    """Characters that NFD takes apart, whole."""
    codes = (code for code in range(N_CODES) if not 0xD800 <= code < 0xE000 and code not in HANGUL)
    return {character: apart for character in map(chr, codes) if (apart := NFD(character)) != character}


def compositions() -> Iterator[tuple[int, int, int, bool]]:
    """A character, the one or two that it is made of (0: one), and whether NFC puts them together."""
    apart = decompositions()
    whole = {parts: character for character, parts in apart.items()}
    for character, parts in apart.items():
        if len(parts) == 1:
            yield ord(character), ord(parts), 0, False
            continue
        first = NFC(parts[:-1])
        first = first if len(first) == 1 else whole[parts[:-1]]
        yield ord(character), ord(first), ord(parts[-1]), NFC(first + parts[-1]) == character


def combining_classes() -> Iterator[tuple[int, int]]:
    """The combining class of each mark that the package knows: NFD orders it with others."""
    low, high = "\u0334", "\u0345"  # of the classes 1 and 240
    for code, mark in enumerate(map(chr, range(N_CODES))):
        order = unicodedata.combining(mark)
        if (
            order
            and NFD(mark) == mark
            and ("a" + mark + low, "a" + high + mark)
            != (
                NFD("a" + mark + low),
                NFD("a" + high + mark),
            )
        ):
            yield code, order


def ranges(values: bytearray) -> Iterator[str]:
    """The first code point of each run of equal values, << 8, and the value."""
    for code in range(N_CODES):
        if not code or values[code] != values[code - 1]:
            yield f"0x{code << 8 | values[code]:X}"


def write(name: str, items: Iterable[str], per_line: int) -> None:
    rows = list(items)
    lines = [", ".join(rows[at : at + per_line]) + "," for at in range(0, len(rows), per_line)]
    head = f"// Made by tools/make_unicode_table.py with tokenizers {__version__}.\n"
    (FOLDER / name).write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> None:
    classes, orders = bytearray(N_CODES), bytearray(N_CODES)
    for bit, pattern in CLASSES.items():
        for code in members(pattern):
            classes[code] |= bit
    for code in digits():
        classes[code] |= DIGIT
    for code, order in combining_classes():
        orders[code] = order
    write("unicode_table.inc", ranges(classes), 10)
    write("combining_classes.inc", ranges(orders), 10)
    rows = (f"{{0x{code:X}, 0x{a:X}, 0x{b:X}, {str(joins).lower()}}}" for code, a, b, joins in compositions())
    write("compositions.inc", rows, 4)


if __name__ == "__main__":
    main()
