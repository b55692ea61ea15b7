"""GGUF files built byte by byte, valid and invalid, for tests of the reader."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Any

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
CODES = {U32: "I", I32: "i", F32: "f", BOOL: "B", U64: "Q"}

Typed = tuple[int, object]  # value type, value; an array: (ARRAY, (element type, elements))
Tensor = tuple[str, Sequence[int], int, int]  # name, shape, type, offset in the data

TOKENS = ["<s>", "</s>", *"abcdef"]
KEYS: dict[str, Typed] = {
    "general.architecture": (STRING, "llama"),
    "general.name": (STRING, "tiny"),
    "llama.context_length": (U32, 64),
    "llama.embedding_length": (U32, 32),
    "llama.block_count": (U32, 1),
    "llama.feed_forward_length": (U32, 32),
    "llama.attention.head_count": (U32, 4),
    "llama.attention.head_count_kv": (U32, 2),
    "llama.attention.layer_norm_rms_epsilon": (F32, 1e-5),
    "llama.rope.freq_base": (F32, 10000.0),
    "llama.rope.dimension_count": (U32, 8),
    "llama.vocab_size": (U32, 8),
    "tokenizer.ggml.model": (STRING, "gpt2"),
    "tokenizer.ggml.pre": (STRING, "llama-bpe"),
    "tokenizer.ggml.tokens": (ARRAY, (STRING, TOKENS)),
    "tokenizer.ggml.token_type": (ARRAY, (I32, [3, 3, 1, 1, 1, 1, 1, 1])),
    "tokenizer.ggml.merges": (ARRAY, (STRING, [])),
    "tokenizer.ggml.bos_token_id": (U32, 0),
    "tokenizer.ggml.eos_token_id": (U32, 1),
    "tokenizer.ggml.add_bos_token": (BOOL, 0),
}
SHAPES: dict[str, Sequence[int]] = {  # in GGUF order: the contiguous dimension first
    "token_embd.weight": (32, 8),
    "blk.0.attn_norm.weight": (32,),
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (32, 16),
    "blk.0.attn_v.weight": (32, 16),
    "blk.0.attn_output.weight": (32, 32),
    "blk.0.ffn_norm.weight": (32,),
    "blk.0.ffn_gate.weight": (32, 32),
    "blk.0.ffn_up.weight": (32, 32),
    "blk.0.ffn_down.weight": (32, 32),
    "output_norm.weight": (32,),
}


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def value(kind: int, content: Any) -> bytes:
    if kind == STRING:
        return text(content)
    if kind != ARRAY:
        return struct.pack("<" + CODES[kind], content)
    element, items = content
    return struct.pack("<IQ", element, len(items)) + b"".join(value(element, item) for item in items)


def tensors(shapes: Mapping[str, Sequence[int]] = SHAPES) -> list[Tensor]:
    """F32 tensors one after the other, aligned to 32 bytes."""
    listed, offset = [], 0
    for name, shape in shapes.items():
        listed.append((name, shape, 0, offset))
        size = 4
        for n in shape:
            size *= n
        offset += -(-size // 32) * 32
    return listed


def header(
    keys: Mapping[str, Typed] | Sequence[tuple[str, Typed]] = KEYS, listed: Sequence[Tensor] | None = None
) -> bytes:
    listed = tensors() if listed is None else listed
    pairs = list(keys.items()) if isinstance(keys, Mapping) else list(keys)
    raw = b"GGUF" + struct.pack("<IQQ", 3, len(listed), len(pairs))
    for key, (kind, content) in pairs:
        raw += text(key) + struct.pack("<I", kind) + value(kind, content)
    for name, shape, number, offset in listed:
        raw += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset)
    return raw


def file(
    keys: Mapping[str, Typed] | Sequence[tuple[str, Typed]] = KEYS, listed: Sequence[Tensor] | None = None
) -> bytes:
    """A complete file: the header, then zeros for every tensor of `SHAPES`."""
    raw = header(keys, listed)
    n_data = sum(-(-4 * _product(shape) // 32) * 32 for shape in SHAPES.values())
    return raw + b"\0" * (-len(raw) % 32 + n_data)


def _product(shape: Sequence[int]) -> int:
    n = 1
    for size in shape:
        n *= size
    return n
