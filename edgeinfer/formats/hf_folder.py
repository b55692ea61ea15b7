"""Reads the small JSON files of a Hugging Face folder, in all forms that occur. Nothing is run."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgeinfer.errors import ArtifactError, UsageError
from edgeinfer.named_files import read_text

__all__ = ["card_claims", "chat_template", "end_ids", "end_texts", "nested_config", "read_json", "special_text"]

MAX_JSON_BYTES = 64 << 20  # the largest known tokenizer_config.json has 1.2 MB
MAX_TEMPLATE_BYTES = 1 << 20
MAX_CARD_BYTES = 1 << 20
_CARD_HEAD = re.compile(r"---\r?\n(.*?)\n---", re.DOTALL)
_CARD_LINE = re.compile(r"^(license|license_name|base_model):[ \t]*(?:\r?\n[ \t]*- )?['\"]?([\w./-]+)", re.MULTILINE)
_NESTED = ("text_config", "llm_config", "language_config")


def read_json(path: Path) -> dict[str, Any]:
    """The object in `path`, with or without a byte order mark; {} when there is no such file. Raises ArtifactError."""
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ArtifactError(f"{path} has {path.stat().st_size} bytes; {MAX_JSON_BYTES} are allowed")
        value = json.loads(
            path.read_bytes()
        )  # json detects UTF-8, UTF-16 and UTF-32 in bytes, with or without a byte order mark
    except (ValueError, RecursionError, OSError) as error:
        raise ArtifactError(f"{path} is not JSON: {str(error)[:160]}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path} holds a {type(value).__name__}, not an object")
    return value


def card_claims(folder: Path) -> tuple[str, str]:
    """The license and the base model that the head of the model card (README.md) states; "" for a missing one."""
    card = folder / "README.md"
    head = _CARD_HEAD.match(card.read_bytes()[:MAX_CARD_BYTES].decode("utf-8", "replace")) if card.is_file() else None
    if head is None:
        return "", ""
    stated = dict(_CARD_LINE.findall(head[1]))
    license_name = stated.get("license_name") if stated.get("license") == "other" else stated.get("license")
    return (license_name or "")[:80], stated.get("base_model", "")[:200]


def nested_config(config: dict[str, Any]) -> dict[str, Any]:
    """The language model's own part of a `config.json` that describes several models; {} where there is none."""
    return next((part for key in _NESTED if isinstance(part := config.get(key), dict)), {})


def chat_template(folder: Path) -> str | None:
    """The template of a conversation: chat_template.jinja, else chat_template.json, else tokenizer_config.json.

    Raises ArtifactError for one that is not text or too large.
    """
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        try:
            return read_text(beside, title=str(beside), most_bytes=MAX_TEMPLATE_BYTES)
        except UsageError as error:
            raise ArtifactError(str(error), hint="`--template FILE` takes another one") from error
    for name in ("chat_template.json", "tokenizer_config.json"):
        template = _one_template(read_json(folder / name).get("chat_template"))
        if template is not None:
            return template
    return None


def _one_template(template: object) -> str | None:
    """The default one, where there are several: as a list of {name, template}, or as a table by name."""
    if isinstance(template, list):
        entries = [entry for entry in template if isinstance(entry, dict)]
        template = {str(entry.get("name")): entry.get("template") for entry in entries}
    if isinstance(template, dict):
        only = next(iter(template.values())) if len(template) == 1 else None
        template = template.get("default", only)
    return template if isinstance(template, str) else None


def special_text(folder: Path, key: str) -> str:
    """The text of `bos_token` or `eos_token`, by tokenizer_config.json or special_tokens_map.json; "" for none."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if texts := list(_texts(read_json(folder / name).get(key))):
            return texts[0]
    return ""


def end_texts(folder: Path) -> set[str]:
    """Every `eos_token` that the folder names by its text."""
    files = ("tokenizer_config.json", "special_tokens_map.json")
    return {text for name in files for text in _texts(read_json(folder / name).get("eos_token"))}


def end_ids(folder: Path) -> set[int]:
    """Every `eos_token_id` of config.json (its nested part too) and generation_config.json."""
    config = read_json(folder / "config.json")
    places = (config, nested_config(config), read_json(folder / "generation_config.json"))
    return {token for place in places for token in _ids(place.get("eos_token_id"))}


def _ids(value: object) -> Iterator[int]:
    """One id or a list of them; some writers give 2.0 for 2, and null for none."""
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, int | float) and not isinstance(one, bool) and one == one // 1:
            yield int(one)


def _texts(value: object) -> Iterator[str]:
    """A text, an object with `content`, or a list of these."""
    for one in value if isinstance(value, list) else [value]:
        text = one.get("content") if isinstance(one, dict) else one
        if isinstance(text, str) and text:
            yield text
