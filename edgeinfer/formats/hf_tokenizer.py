"""A tokenizer from a Hugging Face folder (`tokenizer.json`). It has the shape of `edgeinfer.protocols.Tokenizer`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from edgeinfer.errors import ArtifactBad
from edgeinfer.formats.byte_alphabet import BYTES

__all__ = ["HfTokenizer"]

_BYTE_TOKEN = re.compile(r"^<0x([0-9A-F]{2})>$")
_SPACE = "\u2581"  # what SentencePiece writes for a space


class HfTokenizer:
    """Reads `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`. No code of the folder is run.

    Raises ArtifactBad when a file is missing or does not fit.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        path = folder / "tokenizer.json"
        if not path.is_file():
            raise ArtifactBad(f"{folder} has no tokenizer.json", hint="choose a repository that ships one")
        try:
            self._engine = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise ArtifactBad(f"{path} does not load: {str(error)[:200]}") from error
        config = read_json(folder / "tokenizer_config.json")
        self._special = {
            token: added.content for token, added in self._engine.get_added_tokens_decoder().items() if added.special
        }
        self.control_texts = frozenset(self._special.values()) - {""}
        self._byte_level = _decoder_kind(self._engine.to_str()) == "ByteLevel"
        self.n_vocab = self._engine.get_vocab_size(with_added_tokens=True)
        self.bos_text = _text(config.get("bos_token"))
        self.eos_text = _text(config.get("eos_token"))
        self.stop_tokens = self._stop_tokens(read_json(folder / "generation_config.json"))
        self.chat_template = _template(folder, config)

    def encode(self, text: str, *, special: bool) -> list[int]:
        self._engine.encode_special_tokens = not special
        ids: list[int] = self._engine.encode(text, add_special_tokens=False).ids
        return ids

    def piece(self, token: int) -> bytes:
        text = self._engine.id_to_token(token)
        if text is None or token in self._special:
            return b""
        if self._byte_level:
            return b"".join(BYTES.get(character) or character.encode() for character in text)
        byte = _BYTE_TOKEN.match(text)
        return bytes([int(byte[1], 16)]) if byte else text.replace(_SPACE, " ").encode()

    def _stop_tokens(self, generation: dict[str, Any]) -> frozenset[int]:
        named = generation.get("eos_token_id", [])
        ids = {named} if isinstance(named, int) else {token for token in named if isinstance(token, int)}
        if self.eos_text and (token := self._engine.token_to_id(self.eos_text)) is not None:
            ids.add(token)
        return frozenset(token for token in ids if 0 <= token < self.n_vocab)


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`; {} when there is no such file. Raises ArtifactBad for anything but an object."""
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ArtifactBad(f"{path} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactBad(f"{path} holds a {type(value).__name__}, not an object")
    return value


def _decoder_kind(serialized: str) -> str:
    decoder = json.loads(serialized).get("decoder") or {}
    return str(decoder.get("type", ""))


def _text(value: object) -> str:
    """A special token is written as a string or as an object with `content`."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _template(folder: Path, config: dict[str, Any]) -> str | None:
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8", errors="replace")
    template = config.get("chat_template")
    if isinstance(template, list):  # several named templates
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None
