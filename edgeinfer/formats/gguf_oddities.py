"""The table of what happens to each oddity of a GGUF file.

Each was tried on the pinned engine (llama-cpp-python 0.3.36). What it loads and runs is *ignored* here too. What it
cannot run is *explained*: the hint says how to get a file that works. *Refused* is what makes an engine abort, divide
by zero or read out of bounds, and what no converter writes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_types import HELPER_TYPES, LAST_TYPE, REMOVED_TYPES

__all__ = ["ODDITIES", "Odd", "Oddity", "odd_head", "odd_type", "odd_version", "report"]


class Odd(StrEnum):
    TOKEN_ID = "a special token's id that the vocabulary does not have"
    VOCAB_SIZE = "a vocab_size that is not the number of tokens"
    LONG_ARRAY = "more token types or scores than tokens"
    BOOLEAN = "a boolean that is neither 0 nor 1"
    UNREAD_FLOAT = "a number that is not finite, under a key that no engine reads"
    KEY_TEXT = "a key with characters that cannot be printed"
    MANY_POSITIONS = "more positions than any memory holds"
    NO_POSITIONS = "a file that does not say how many positions its model has"
    NOISE = "numbers with which the model computes only noise"
    REMOVED_TYPE = "a tensor type that llama.cpp has removed"
    FORK_TYPE = "a tensor type of another program"
    NEWER_TYPE = "a tensor type of a newer llama.cpp"
    HELPER_TYPE = "a tensor type for intermediate results"
    NORM_TYPE = "a norm or bias that is not F32"
    VERSION_1 = "GGUF version 1"
    NEWER_VERSION = "a newer GGUF version"
    BIG_ENDIAN = "a big-endian file"
    BEFORE_GGUF = "a file from before GGUF"
    EMPTY = "an empty file"
    POINTER = "a Git LFS pointer"
    WEB_PAGE = "a web page"
    NOT_GGUF = "another kind of file"
    NO_TOKENIZER = "a file without a tokenizer"
    NO_LANGUAGE_MODEL = "a helper file of a model"
    PARTS = "parts of a split model that are missing or do not fit"
    DAMAGED = "anything else that is not as it must be"


@dataclass(frozen=True, slots=True)
class Oddity:
    answer: Literal["ignored", "explained", "refused"]
    hint: str = ""


_IGNORED = Oddity("ignored")
ODDITIES = {
    Odd.TOKEN_ID: _IGNORED,  # the engine warns and takes its default
    Odd.VOCAB_SIZE: _IGNORED,  # the engine counts the tokens
    Odd.LONG_ARRAY: _IGNORED,
    Odd.BOOLEAN: _IGNORED,  # true
    Odd.UNREAD_FLOAT: _IGNORED,
    Odd.KEY_TEXT: _IGNORED,  # shown with escapes
    Odd.MANY_POSITIONS: _IGNORED,
    Odd.NO_POSITIONS: Oddity("explained", "it was converted wrongly: take another file of this model"),
    Odd.NOISE: Oddity("explained", "it was converted wrongly: take another file of this model"),
    Odd.REMOVED_TYPE: Oddity("explained", "take the same model in {type}: llama.cpp repacks it while it loads"),
    Odd.FORK_TYPE: Oddity("explained", "it is a type of ik_llama.cpp: take the model in one of llama.cpp's, as Q4_K_M"),
    Odd.NEWER_TYPE: Oddity("explained", "a newer edgeinfer may load it; or take the model in an older type, as Q4_K_M"),
    Odd.HELPER_TYPE: Oddity("explained", "no weights are stored in it: take the model in another type, as Q8_0"),
    Odd.NORM_TYPE: Oddity("explained", "llama.cpp computes these in F32 only: take a file made by its own converter"),
    Odd.VERSION_1: Oddity("explained", "it is from August 2023: take a newer file of this model"),
    Odd.NEWER_VERSION: Oddity("explained", "a newer edgeinfer may load it; or take an older file of this model"),
    Odd.BIG_ENDIAN: Oddity("explained", "`pip install gguf`, then `gguf-convert-endian FILE little`"),
    Odd.BEFORE_GGUF: Oddity("explained", "it is from before August 2023: take the model as .gguf"),
    Odd.EMPTY: Oddity("explained", "its download did not begin: remove it and download it again"),
    Odd.POINTER: Oddity("explained", "run `git lfs pull` in its folder to fetch the file itself"),
    Odd.WEB_PAGE: Oddity("explained", "download the file itself; on the hub its address holds /resolve/, not /blob/"),
    Odd.NOT_GGUF: Oddity("explained", "choose a .gguf file"),
    Odd.NO_TOKENIZER: Oddity("explained", "take a file of this model that holds its tokenizer"),
    Odd.NO_LANGUAGE_MODEL: Oddity("explained", "name the file of the model itself; this one only goes with it"),
    Odd.PARTS: Oddity("explained", "put all parts into one folder, under the names that they were published with"),
    Odd.DAMAGED: Oddity(
        "refused", "the file is damaged or was made to harm; download it again from a source that you trust"
    ),
}


def report(odd: Odd, message: str, **words: str) -> None:
    """Raise ArtifactError with `message`, unless the table says that this is ignored. `words` go into the hint."""
    oddity = ODDITIES[odd]
    if oddity.answer != "ignored":
        raise ArtifactError(message, hint=oddity.hint.format(**words))


def odd_type(number: int) -> tuple[Odd, dict[str, str]]:
    """The oddity of a tensor type that llama.cpp does not load, and the words of its hint."""
    if number in REMOVED_TYPES:
        return Odd.REMOVED_TYPE, {"type": REMOVED_TYPES[number]}
    if number in HELPER_TYPES:
        return Odd.HELPER_TYPE, {}
    if LAST_TYPE < number < 97:
        return Odd.NEWER_TYPE, {}
    return (Odd.FORK_TYPE if 97 <= number <= 400 else Odd.DAMAGED), {}  # ik_llama.cpp's ggml.h: 97 to 398


def odd_version(version: int) -> Odd:
    if version and not version & 0xFFFF:
        return Odd.BIG_ENDIAN
    if version == 1:
        return Odd.VERSION_1
    return Odd.NEWER_VERSION if 3 < version < 100 else Odd.DAMAGED


_HEADS = {
    b"ggml": Odd.BEFORE_GGUF,
    b"lmgg": Odd.BEFORE_GGUF,  # the others as little-endian words: "ggml", "ggmf", "ggjt", "ggla"
    b"fmgg": Odd.BEFORE_GGUF,
    b"tjgg": Odd.BEFORE_GGUF,
    b"algg": Odd.BEFORE_GGUF,
    b"vers": Odd.POINTER,
    b"<!DO": Odd.WEB_PAGE,
    b"<!do": Odd.WEB_PAGE,
    b"<htm": Odd.WEB_PAGE,
    b"<HTM": Odd.WEB_PAGE,
    b"FUGG": Odd.BIG_ENDIAN,
}


def odd_head(magic: bytes) -> Odd:
    """The kind of a file that starts with these four bytes instead of GGUF."""
    return _HEADS.get(magic, Odd.NOT_GGUF)
