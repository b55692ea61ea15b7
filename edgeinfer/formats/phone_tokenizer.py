"""Which tokenizers the phone runtime reads: the rules of mobile/runtime/text/tokenizer_reader.cpp."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_bpe import SPLITTINGS
from edgeinfer.formats.hf_folder import read_json

__all__ = ["check_tokenizer"]

_HINT: Final = "byte-level BPE, and SentencePiece BPE with byte fallback, are exported"
_MARK: Final = "\u2581"
_CONTRACTION: Final = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_PATTERNS: Final = {pattern for splitting in SPLITTINGS.values() for pattern in splitting.patterns}
_TEKKEN: Final = SPLITTINGS["gpt-4o"].patterns[0].replace(r"\p{N}{1,3}", r"\p{N}").replace(_CONTRACTION, "")


def check_tokenizer(path: Path) -> None:
    """Raise ArtifactError for a `tokenizer.json` that the phone does not read, and name what it does not know."""
    if unknown := next(_unknown(read_json(path)), ""):
        raise ArtifactError(f"the model's tokenizer cannot be exported: {unknown}", hint=_HINT)


def _unknown(fields: dict[str, Any]) -> Iterator[str]:
    for key in ("truncation", "padding"):
        if fields.get(key):
            yield f"it sets `{key}`"
    normalizers = list(_steps(fields.get("normalizer"), "normalizers"))
    splitters = list(_steps(fields.get("pre_tokenizer"), "pretokenizers"))
    for step in normalizers:
        if not (_is_prepend(step) or _is_replace(step) or step.get("type") == "NFC"):
            yield f"its normalizer is `{step.get('type')}`"
    for index, step in enumerate(splitters):
        yield from _unknown_splitter(step, is_last=index == len(splitters) - 1)
    is_byte_level = bool(splitters) and splitters[-1].get("type") == "ByteLevel"
    is_space_marked = any(map(_is_replace, normalizers)) or (
        bool(splitters) and splitters[-1].get("type") == "Metaspace"
    )
    if is_space_marked and any(step.get("type") == "NFC" for step in normalizers):
        yield "it marks spaces and has `NFC`"
    if is_byte_level and any(map(_is_replace, normalizers)):
        yield "it has `Replace` and `ByteLevel`"
    if any(map(_is_prepend, normalizers)) and not any(map(_is_replace, normalizers)):
        yield "its normalizer is `Prepend`"
    yield from _unknown_model(fields.get("model") or {}, is_byte_level=is_byte_level)
    for token in fields.get("added_tokens") or []:
        kinds = ("single_word", "lstrip", "rstrip", *(("normalized",) if normalizers else ()))
        if kind := next((kind for kind in kinds if token.get(kind)), ""):
            yield f"its token `{token.get('content')}` has `{kind}`"


def _steps(step: dict[str, Any] | None, inner: str) -> Iterator[dict[str, Any]]:
    if step is None:
        return
    if step.get("type") == "Sequence":
        for one in step.get(inner, []):
            yield from _steps(one, inner)
    else:
        yield step


def _is_prepend(step: dict[str, Any]) -> bool:
    return step.get("type") == "Prepend" and step.get("prepend") == _MARK


def _is_replace(step: dict[str, Any]) -> bool:
    return step.get("type") == "Replace" and step.get("pattern") == {"String": " "} and step.get("content") == _MARK


def _unknown_splitter(step: dict[str, Any], *, is_last: bool) -> Iterator[str]:
    kind = step.get("type")
    if kind in ("ByteLevel", "Metaspace"):
        if not is_last:
            yield f"`{kind}` is not the last of its pre-tokenizers"
        if step.get("add_prefix_space") or step.get("replacement", _MARK) != _MARK:
            yield f"its pre-tokenizer `{kind}` puts another space before a text"
    elif kind == "Split":
        pattern = str((step.get("pattern") or {}).get("Regex"))
        if pattern not in _PATTERNS | {_TEKKEN}:
            yield f"it splits by `{re.sub(r'[^ -~]', '?', pattern)[:60]}`"
        if step.get("behavior") != "Isolated" or step.get("invert"):
            yield f"it splits as {step.get('behavior')}"
    elif kind != "Digits" or not step.get("individual_digits"):
        yield f"its pre-tokenizer is `{kind}`"


def _unknown_model(model: dict[str, Any], *, is_byte_level: bool) -> Iterator[str]:
    if model.get("type") != "BPE":
        yield f"its model is `{model.get('type')}`"
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            yield f"its model has `{key}`"
    if is_byte_level and model.get("byte_fallback"):
        yield "it has `byte_fallback` and `ByteLevel`"
    if model.get("byte_fallback") and any(f"<0x{byte:02X}>" not in model.get("vocab", {}) for byte in range(256)):
        yield "it has `byte_fallback`, and not a token for every byte"
