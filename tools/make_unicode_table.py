"""Writes mobile/runtime/text/unicode_table.inc: the classes of characters as the `tokenizers` package sees them.

python tools/make_unicode_table.py; the package asks Oniguruma for \\p{L}, \\p{N} and \\s, and Rust for digits.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, __version__, pre_tokenizers

OUT = Path(__file__).parents[1] / "mobile/runtime/text/unicode_table.inc"
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
PER_LINE = 10


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


def main() -> None:
    classes = bytearray(N_CODES)
    for bit, pattern in CLASSES.items():
        for code in members(pattern):
            classes[code] |= bit
    for code in digits():
        classes[code] |= DIGIT
    ranges = [
        f"0x{code << 8 | classes[code]:X}" for code in range(N_CODES) if not code or classes[code] != classes[code - 1]
    ]
    lines = [", ".join(ranges[at : at + PER_LINE]) + "," for at in range(0, len(ranges), PER_LINE)]
    head = f"// Made by tools/make_unicode_table.py with tokenizers {__version__}.\n"
    OUT.write_text(head + "\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
