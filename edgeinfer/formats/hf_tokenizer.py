"""A tokenizer from a Hugging Face folder (`tokenizer.json`). It has the shape of `edgeinfer.protocols.Tokenizer`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.byte_alphabet import BYTES
from edgeinfer.formats.hf_folder import chat_template, end_ids, end_texts, special_text
from edgeinfer.formats.special_tokens import special_tokens

__all__ = ["HfTokenizer"]

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-F]{2})>$")
_SPACE = "\u2581"  # what SentencePiece writes for a space


class HfTokenizer:
    """Reads `tokenizer.json` and the small files beside it. No code of the folder is run.

    Raises ArtifactError when a file is missing or does not fit.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ArtifactError(f"{folder} has no tokenizer.json", hint="choose a repository that ships one")
        try:
            self._engine = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactError(f"{path} does not load: {str(error)[:200]}") from error
        self._engine.no_truncation()  # settings of the trainer, which would lose text, or add to it
        self._engine.no_padding()
        added = self._engine.get_added_tokens_decoder()
        self._special = {token: one.content for token, one in added.items() if one.special}
        self._words = {token: one.content.encode() for token, one in added.items() if not one.special}
        self.control_texts = frozenset(self._special.values()) - {""}
        read = json.loads(self._engine.to_str())
        if unknown := _unknown_spelling(read):
            raise ArtifactError(
                f"{path} writes tokens in a way that edgeinfer does not read: {unknown}",
                hint="models that write text have a tokenizer of type BPE or Unigram",
            )
        self._byte_level = _is_byte_level(read)
        self.n_vocab = self._engine.get_vocab_size(with_added_tokens=True)
        self.bos_text = special_text(folder, "bos_token")
        self.eos_text = special_text(folder, "eos_token")
        self.stop_tokens = self._stop_tokens(folder)
        self.chat_template = chat_template(folder)

    def encode(self, text: str, *, special: bool) -> list[int]:
        self._engine.encode_special_tokens = not special
        ids: list[int] = self._engine.encode(text, add_special_tokens=False).ids
        return ids

    def piece(self, token: int) -> bytes:
        text = self._engine.id_to_token(token)
        if text is None or token in self._special:
            return b""
        if token in self._words:
            return self._words[token]
        if self._byte_level:
            return b"".join(BYTES.get(character) or character.encode() for character in text)
        byte = _BYTE_TOKEN.match(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace(_SPACE, " ").encode()

    def save(self, path: Path) -> None:
        """Write it as this version of the `tokenizers` library does."""
        self._engine.save(str(path))

    def _stop_tokens(self, folder: Path) -> frozenset[int]:
        """By id, by text, and control tokens that end a turn in every family, as llama.cpp takes them."""
        named = {token for text in end_texts(folder) if (token := self._engine.token_to_id(text)) is not None}
        known = special_tokens({text: token for token, text in self._special.items()}, {}).ends
        ids = end_ids(folder) | named | known
        return frozenset(token for token in ids if 0 <= token < self.n_vocab)


def _is_byte_level(tokenizer: Mapping[str, Any]) -> bool:
    """By its decoder, which may be one step of several; by the pre-tokenizer where it has none."""
    return any(
        one.get("type") == "ByteLevel" for one in _steps(tokenizer.get("decoder") or tokenizer.get("pre_tokenizer"))
    )


def _unknown_spelling(tokenizer: Mapping[str, Any]) -> str:
    """What `piece` would spell wrongly; "" for nothing."""
    model = tokenizer["model"]
    for key in ("continuing_subword_prefix", "end_of_word_suffix"):  # WordPiece has the first one
        if model.get(key):
            return f"its {model.get('type')} model has {key} {model[key]!r}"
    for step in _steps(tokenizer.get("decoder")):
        if step.get("type") in ("WordPiece", "BPEDecoder", "CTC"):
            return f"its decoder is {step['type']}"
        if step.get("type") == "Metaspace" and step.get("replacement") != _SPACE:
            return f"its decoder writes {step.get('replacement')!r} for a space"
    return ""


def _steps(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps of a decoder or a pre-tokenizer, which may be a sequence."""
    part = part or {}
    return list(part.get("decoders") or part.get("pretokenizers") or [part])
