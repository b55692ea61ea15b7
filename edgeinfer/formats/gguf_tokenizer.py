"""A tokenizer from GGUF metadata alone. It has the shape of `edgeinfer.protocols.Tokenizer`."""

from __future__ import annotations

import re
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.byte_alphabet import BYTES
from edgeinfer.formats.gguf_bpe import SPLITTINGS, Splitting
from edgeinfer.formats.gguf_header import GgufArray, GgufHeader
from edgeinfer.formats.special_tokens import special_tokens

if TYPE_CHECKING:
    import tokenizers

__all__ = ["GgufTokenizer", "TokenType"]

_DEFAULT_IDS = {"bos": 11, "eos": 11}  # llama.cpp's, for a byte-level BPE that names none
_ROLE = re.compile(r"tokenizer\.ggml\.(\w+)_token_id")


class TokenType(IntEnum):
    """`tokenizer.ggml.token_type`, as in llama.h."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


class GgufTokenizer:
    """Byte-level BPE (`gpt2` in GGUF). Raises ArtifactError for another kind, or for metadata that contradicts itself.

    Control tokens in a text are parsed only with `special=True`; tokens that the model's author added as plain words
    (USER_DEFINED) always, as llama.cpp does.
    """

    def __init__(self, header: GgufHeader) -> None:
        self._metadata = header.metadata
        self._splitting = _splitting(
            self._metadata.get("tokenizer.ggml.model"), self._metadata.get("tokenizer.ggml.pre")
        )
        self._texts = cast(tuple[str, ...], self._array("tokens"))
        self.n_vocab = len(self._texts)
        self._roles = self._named_tokens()
        special = special_tokens({text: token for token, text in enumerate(self._texts)}, self._roles)
        self.stop_tokens = special.ends
        self._types = self._token_types()
        self._types |= dict.fromkeys(special.control, TokenType.CONTROL)
        self._types |= dict.fromkeys(special.words, TokenType.USER_DEFINED)
        template = self._metadata.get("tokenizer.chat_template")
        self.chat_template = template if isinstance(template, str) else None
        self.eos_text = self._text_of("eos")
        self.bos_text = self._text_of("bos") if self._takes_bos() else ""

    def encode(self, text: str, *, special: bool) -> list[int]:
        engine = self._engine
        engine.encode_special_tokens = not special
        return engine.encode(text, add_special_tokens=False).ids

    def piece(self, token: int) -> bytes:
        kind = self._types.get(token, TokenType.NORMAL)
        if kind in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.UNUSED):
            return b""
        text = self._texts[token]
        if kind == TokenType.USER_DEFINED:
            return text.encode("utf-8")
        return b"".join(BYTES.get(character) or character.encode("utf-8") for character in text)

    def save(self, path: Path) -> None:
        """Write it as a `tokenizer.json`, which `HfTokenizer` and the `tokenizers` library read."""
        from tokenizers import decoders

        self._engine.decoder = decoders.ByteLevel()
        self._engine.save(str(path))

    @cached_property
    def control_texts(self) -> frozenset[str]:
        kinds = (TokenType.CONTROL, TokenType.UNKNOWN)
        return frozenset(self._texts[token] for token, kind in self._types.items() if kind in kinds) - {""}

    @cached_property
    def _engine(self) -> tokenizers.Tokenizer:
        from tokenizers import AddedToken, Regex, Tokenizer, models, pre_tokenizers

        ids = {text: token for token, text in enumerate(self._texts)}
        merges = [_pair(merge) for merge in cast(tuple[str, ...], self._array("merges"))]
        try:
            engine = Tokenizer(models.BPE(ids, merges, ignore_merges=self._splitting.whole_first))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"the tokenizer in this file does not load: {str(error)[:200]}") from error
        splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in self._splitting.patterns]
        engine.pre_tokenizer = pre_tokenizers.Sequence(
            [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
        kinds = {TokenType.CONTROL: True, TokenType.UNKNOWN: True, TokenType.USER_DEFINED: False}
        added = [
            AddedToken(self._texts[token], special=kinds[TokenType(kind)], normalized=False)
            for token, kind in sorted(self._types.items())
            if kind in kinds and self._texts[token]
        ]
        engine.add_tokens(added)
        return engine

    def _array(self, key: str) -> tuple[str | int | float | bool, ...]:
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        if not isinstance(value, GgufArray):
            raise ArtifactError(f"the file has no tokenizer.ggml.{key}", hint="choose a file that holds its tokenizer")
        return value.values

    def _token_types(self) -> dict[int, int]:
        """The type of each token that is not NORMAL."""
        if "tokenizer.ggml.token_type" not in self._metadata:
            return {}
        types = self._array("token_type")
        if len(types) < self.n_vocab:
            raise ArtifactError(f"the tokenizer has {self.n_vocab} tokens but {len(types)} token types")
        return {token: int(kind) for token, kind in enumerate(types[: self.n_vocab]) if kind != TokenType.NORMAL}

    def _named_tokens(self) -> dict[str, int]:
        """The special tokens by role. An id that the vocabulary lacks counts as not named, as in llama.cpp."""
        found = {match[1]: value for key, value in self._metadata.items() if (match := _ROLE.fullmatch(key))}
        roles = {role: value for role, value in found.items() if isinstance(value, int) and 0 <= value < self.n_vocab}
        return {role: token for role, token in _DEFAULT_IDS.items() if token < self.n_vocab} | roles

    def _text_of(self, role: str) -> str:
        return self._texts[self._roles[role]] if role in self._roles else ""

    def _takes_bos(self) -> bool:
        """By the file's flag, or because its template writes it."""
        flag = self._metadata.get("tokenizer.ggml.add_bos_token", self._splitting.add_bos)
        return bool(flag) or "bos_token" in (self.chat_template or "")


def _splitting(model: object, pre: object) -> Splitting:
    known = ", ".join(sorted(SPLITTINGS))
    if model != "gpt2":
        raise ArtifactError(
            f"the tokenizer kind {model!r} cannot be read; byte-level BPE (gpt2) can", hint="use --backend gguf"
        )
    if pre not in SPLITTINGS:
        raise ArtifactError(f"the pre-tokenizer {pre!r} is unknown; known: {known}", hint="use --backend gguf")
    return SPLITTINGS[str(pre)]


def _pair(merge: str) -> tuple[str, str]:
    left, space, right = merge.partition(" ")
    if not space:
        raise ArtifactError(f"the merge {merge[:40]!r} is not two tokens with a space between")
    return left, right
