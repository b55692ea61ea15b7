"""A bundle that is whole by its manifest, made in a moment: its program is no program."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.formats.bundle import PROGRAM, TEMPLATE, TOKENIZER, Golden, Manifest, file_of, write_manifest


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
        "arena_bytes": 1000,
        "bos_text": "",
        "eos_text": "<|im_end|>",
        "stop_tokens": (0, 2),
        "runtime": "1.5.1",
        "methods": ("front", "exit_head", "verify"),
        "operators": ("edgeinfer.ring_attend.out",),
        "exporter": {"torch": "2.13.0"},
        "files": {name: file_of(folder / name) for name in (PROGRAM, TOKENIZER, TEMPLATE)},
        "golden": (Golden((5, 6), (7, 8), (1.5, -2.25)),),
    }
    write_manifest(folder, Manifest(**{**fields, **changes}))  # type: ignore[arg-type]
    return folder
