"""Texts of many scripts, with emoji sequences, spaces, numbers and near control tokens, generated from a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

RANGES = (  # first and last code points of the characters of words
    (0x21, 0x7E),
    (0x61, 0x7A),
    (0x41, 0x5A),
    (0xA0, 0x24F),  # Latin
    (0x250, 0x36F),  # IPA, combining marks
    (0x370, 0x52F),  # Greek, Cyrillic
    (0x531, 0x5FF),  # Armenian, Hebrew
    (0x600, 0x77F),  # Arabic, Syriac
    (0x900, 0xDFF),  # scripts of India
    (0xE00, 0xFFF),  # Thai, Lao, Tibetan
    (0x1000, 0x13FF),  # Burmese, Georgian, Hangul, Ethiopic, Cherokee
    (0x1680, 0x18AF),
    (0x1C80, 0x1FFF),
    (0x2000, 0x2BFF),  # punctuation, currency, numbers, arrows, symbols
    (0x3000, 0x30FF),  # kana
    (0x4E00, 0x9FFF),
    (0xA000, 0xABFF),
    (0xAC00, 0xD7A3),
    (0xFB00, 0xFDFF),
    (0xFE00, 0xFFFD),
    (0x10000, 0x10FFF),
    (0x1D400, 0x1D7FF),
    (0x1F300, 0x1FAFF),
    (0x20000, 0x2A6DF),
    (0x0, 0x10FFFF),
)
MARKS = "\u0300\u0301\u0308\u0323\u0327\u0334\u0342\u0345\u05b7\u064b\u093c\u3099\u1161\u11a8"  # some compose
SPACES = (
    " ",
    " ",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    "    ",
    " \n",
    "\n ",
    "\r",
    "\xa0",
    "\u3000",
    "\u2028",
    "\x85",
)
WORDS = (
    *(
        "the",
        "Hello",
        "world",
        "don't",
        "I'LL",
        "We've",
        "it'S",
        "'re",
        "'\u017f",
        "O'd",
        "camelCaseWord",
        "HTTPServer",
    ),
    *(
        "naïve",
        "Straße",
        "привет",
        "мир",
        "مرحبا",
        "שלום",
        "नमस्ते",
        "สวัสดี",
        "你好世界",
        "こんにちは",
        "안녕하세요",
        "Ελλάδα",
    ),
    *(
        "👩‍👩‍👧‍👦",
        "👍🏽",
        "🏳️‍🌈",
        "🇩🇪🇫🇷",
        "1️⃣",
        "☺️",
        "e\u0301",
        "n\u0303o",
        "\u200d",
        "\ufeff",
        "x\u0000y",
        "ﷺ",
        "ǅ",
        "ª²Ⅻ",
    ),
    *(
        "3.14159",
        "1234567",
        "٣٤٥",
        "१२३",
        "0x1F",
        "2024-11-28",
        "1,000,000",
        "¼½",
        "def f(x):\n\treturn x**2",
        "a/b//c/\n/",
    ),
    *(
        "...",
        "!!!",
        "?!",
        "—",
        "«»",
        "$100",
        "€5",
        "</s>",
        "<s>",
        "<unk>",
        "<0x0A>",
        "▁",
        "▁▁x",
        "Ġ",
        "<|",
        "|>",
        "[INST]",
    ),
)


def texts(n: int, seed: int, controls: Sequence[str]) -> Iterator[str]:
    rng = random.Random(seed)
    for _ in range(n):
        yield "".join(part(rng, controls) for _ in range(rng.choice((1, 2, 4, 8, 16))))


def part(rng: random.Random, controls: Sequence[str]) -> str:
    kind = rng.random()
    if kind < 0.3:
        return rng.choice(WORDS)
    if kind < 0.55:
        return rng.choice(SPACES) * rng.choice((1, 1, 1, 2, 5))
    if kind < 0.8:
        return "".join(characters(rng, rng.choice((1, 2, 3, 6, 12))))
    if kind < 0.85:
        return rng.choice("aeouAÉωк가ᄀか") + "".join(rng.choice(MARKS) for _ in range(rng.randrange(1, 5)))
    if kind < 0.9:
        return "".join(rng.choice("0123456789") for _ in range(rng.randrange(1, 9)))
    return look_alike(rng, rng.choice(controls)) if controls else rng.choice(WORDS)


def characters(rng: random.Random, n: int) -> Iterator[str]:
    first, last = rng.choice(RANGES)
    for _ in range(n):
        code = rng.randint(first, last)
        yield "x" if 0xD800 <= code < 0xE000 else chr(code)


def look_alike(rng: random.Random, control: str) -> str:
    at = rng.randrange(len(control) + 1)
    return rng.choice(
        (
            control,
            control,
            control[:at],
            control[at:],
            control[:at] + control + control[at:],
            control[:at] + " " + control[at:],
        )
    )
