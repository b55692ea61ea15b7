"""Bundles with a valid manifest but without a real program, for tests that run none."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from edgeinfer.formats.bundle import file_of, write_ranked_tokens
from edgeinfer.formats.chat_pieces import ChatPieces, Frame, Lead, Pieces, ThinkingCut, TraceFormat
from edgeinfer.formats.manifest import (
    DRAFT_TOKENS,
    MANIFEST,
    PROGRAM,
    TEMPLATE,
    TOKENIZER,
    BundleDraft,
    Golden,
    Manifest,
    Memory,
    Method,
    read_manifest,
    sealed,
    write_manifest,
)

Fields: TypeAlias = dict[str, Any]
Keys: TypeAlias = tuple[str | int, ...]

THINK = TraceFormat("<think>", ("</think>",), ("<answer>",))
PIECES = Pieces(
    plain=Lead("", "", "<|im_start|>user\n"),
    system=Lead("<|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n"),
    user=Frame("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=Frame("<|im_start|>assistant\n", "<|im_end|>\n"),
    opening="<|im_start|>assistant\n",
    stripped=("user",),
    earlier_trace="newlines",
    cut=ThinkingCut("</think>", "newlines"),
    traces=(THINK,),
    begun=THINK,
    stops=("### User:",),
    stop_tokens=(5,),
)
CHAT = ChatPieces(words=("<think>",), thinking=PIECES, no_thinking=PIECES)


def write_bundle(folder: Path, **changes: object) -> Path:
    folder.mkdir()
    (folder / PROGRAM).write_bytes(bytes(range(256)) * 8)
    (folder / TOKENIZER).write_text('{"version": "1.0"}', encoding="utf-8")
    (folder / TEMPLATE).write_text("{{ messages }}", encoding="utf-8")
    fields: dict[str, object] = {
        "name": "a model",
        "base_model": "Somebody/Base-1B",
        "license": "apache-2.0",
        "source_sha256": "sha256:" + "0" * 64,
        "tier": "8da4w",
        "target": "xnnpack",
        "policy": "sinks-and-blocks",
        "kv_type": "f32",
        "architecture": "llama",
        "n_layers": 4,
        "n_heads": 4,
        "n_kv_heads": 2,
        "head_dim": 32,
        "hidden": 128,
        "n_ffn": 256,
        "n_vocab": 288,
        "limit": 2048,
        "exit_layer": 2,
        "exact_rows": 16,
        "memory": Memory(packed_bytes=1000, workspace_bytes=2000, kv_bytes_per_position=2048),
        "bos_text": "",
        "eos_text": "<|im_end|>",
        "stop_tokens": (0, 2),
        "runtime": "1.5.1",
        "methods": {"front": Method(("int64[1, n_tokens]", "int64[4]"), ("float32[1, n_tokens, 128]",))},
        "operators": {"edgeinfer.ring_attend.out": "edgeinfer::ring_attend.out(Tensor q) -> Tensor"},
        "chat": CHAT,
        "exporter": {"torch": "2.13.0"},
        "files": {name: file_of(folder / name) for name in (PROGRAM, TOKENIZER, TEMPLATE)},
        "golden": (Golden((5, 6), (7, 8), (1.5, -2.25), (1.25, -3.0)),),
    }
    write_manifest(folder, Manifest(**{**fields, **changes}))  # type: ignore[arg-type]
    return folder


DRAFT = BundleDraft(
    kind="feature",
    exit_layer=0,
    taps=(1, 2, 4),
    n_ranked=200,
    base_model="Somebody/Base-1B",
    license="apache-2.0",
    source_sha256="sha256:" + "1" * 64,
    agreement=(0.5, 0.25),
)


def write_drafted_bundle(folder: Path, **changes: object) -> Path:
    """With a feature draft of 200 of the 288 tokens."""
    write_bundle(folder)
    write_ranked_tokens(folder, np.arange(200, dtype=np.int32))
    files = {name: file_of(folder / name) for name in (PROGRAM, TOKENIZER, TEMPLATE, DRAFT_TOKENS)}
    manifest = replace(read_manifest(folder / MANIFEST), exit_layer=0, draft=DRAFT, files=files)
    write_manifest(folder, replace(manifest, **changes))  # type: ignore[arg-type]
    return folder


def fields_of(folder: Path) -> Fields:
    """Of the manifest in `folder`."""
    fields: Fields = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return fields


def write_fields(folder: Path, fields: Fields) -> None:
    """As the manifest of `folder`, with a new digest where `fields` still has one."""
    text = json.dumps(fields)
    has_digest = str(fields.get("digest")).startswith("sha256:")
    (folder / MANIFEST).write_text(sealed(text) if has_digest else text, encoding="utf-8")


def keys_of(value: object, at: Keys = ()) -> list[Keys]:
    """The keys that lead to each value in `value`, an outer value before those in it."""
    items = list(value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ())
    return [keys for key, inner in items for keys in ((*at, key), *keys_of(inner, (*at, key)))]


def changed(fields: Fields, keys: Keys, value: object) -> Fields:
    """A copy with another value at `keys`; `...` removes it."""
    other = copy.deepcopy(fields)
    inner: Any = other
    for key in keys[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    return other
