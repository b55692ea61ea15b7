"""Unusual GGUF files: what the pinned engine runs is read, what it cannot run is refused with a way out."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgeinfer.errors import ArtifactError
from edgeinfer.formats import GgufHeader, check_artifact, facts_from_gguf
from edgeinfer.formats.gguf_oddities import ODDITIES, Odd
from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
from edgeinfer.formats.gguf_types import GGML_TYPES
from tests import gguf_bytes as g

HARM = "made to harm"
WIDTH = 256  # a multiple of the block size of every type
WIDE: dict[str, Sequence[int]] = {
    "token_embd.weight": (WIDTH, 8),
    **{f"blk.0.{name}.weight": (WIDTH, WIDTH) for name in ("attn_q", "attn_output", "ffn_gate", "ffn_up", "ffn_down")},
    **{f"blk.0.{name}.weight": (WIDTH, WIDTH // 2) for name in ("attn_k", "attn_v")},
    **{f"{name}.weight": (WIDTH,) for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")},
}
WIDE_KEYS = g.KEYS | {
    "llama.embedding_length": (g.U32, WIDTH),
    "llama.feed_forward_length": (g.U32, WIDTH),
    "llama.rope.dimension_count": (g.U32, WIDTH // 4),
}


def of_type(number: int, block: int = 32, block_bytes: int = 18, *, norms: bool = False) -> bytes:
    """A model whose matrices (or norms) have this type."""
    listed, offset = [], 0
    for name, shape in WIDE.items():
        chosen = ("norm" in name) is norms
        listed.append((name, shape, number if chosen else 0, offset))
        n_bytes = math.prod(shape) // block * block_bytes if chosen else math.prod(shape) * 4
        offset += -(-n_bytes // 32) * 32
    raw = g.header(WIDE_KEYS, listed)
    return raw + b"\0" * (-len(raw) % 32 + offset)


def with_keys(**changes: g.Typed | None) -> bytes:
    """The tiny model with these keys replaced; `__` stands for a dot, and None removes a key."""
    named = {name.replace("__", "."): value for name, value in changes.items()}
    return g.file({key: value for key, value in {**g.KEYS, **named}.items() if value is not None})


def token_id(role: str, value: int, add: int = 0) -> bytes:
    key = f"tokenizer.ggml.{role}_token_id"
    return g.file({**g.KEYS, key: (g.U32, value), "tokenizer.ggml.add_bos_token": (g.BOOL, add)})


ROLES = ("bos", "eos", "eot", "eom", "unknown", "seperator", "padding", "mask", "fim_pre", "fim_pad")
IGNORED = {
    **{f"{role} {value}": token_id(role, value) for role in ROLES for value in (8, 1 << 31, (1 << 32) - 1)},
    "bos beyond, and added": token_id("bos", 8, add=1),
    "no bos": with_keys(tokenizer__ggml__bos_token_id=None, tokenizer__ggml__add_bos_token=None),
    **{f"vocab_size {n}": with_keys(llama__vocab_size=(g.U32, n)) for n in (0, 5, 9, 1 << 31)},
    "long token types": with_keys(tokenizer__ggml__token_type=(g.ARRAY, (g.I32, [3, 3, *[1] * 10]))),
    "long scores": with_keys(tokenizer__ggml__scores=(g.ARRAY, (g.F32, [0.0] * 10))),
    "a boolean of 2": with_keys(x=(g.BOOL, 2)),
    "not finite, unread": with_keys(x=(g.F32, math.nan), general__sampling__temp=(g.F32, math.inf)),
    "a key with a bell": g.file({**g.KEYS, "a\x07": (g.U32, 1)}),
    "many positions": with_keys(llama__context_length=(g.U32, (1 << 32) - 1)),
    "type 42": of_type(42, 64, 18),
    "version 2": g.file()[:4] + struct.pack("<I", 2) + g.file()[8:],
}


@pytest.mark.parametrize("name", IGNORED)
def test_files_that_the_engine_runs_are_read(tmp_path: Path, name: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(IGNORED[name])
    header = check_artifact(path)
    assert isinstance(header, GgufHeader)
    assert facts_from_gguf(header).shape.n_vocab == 8
    assert 0 < facts_from_gguf(header).shape.limit <= 1 << 30
    ours = GgufTokenizer(header)
    pytest.importorskip("llama_cpp", reason="the engine is not here")
    from edgeinfer.backends.gguf import llama, tokenizer
    from edgeinfer.backends.gguf.batch import Batch

    model = llama.load(path)  # the table's claim, tried on the engine
    try:
        context = llama.Context(model, llama.ContextOptions(slots=64, n_batch=8, n_threads=1))
        batch = Batch(8)
        batch.fill([2, 3, 4], 0, n_wanted=1)
        context.decode(batch)
        assert len(context.logits(-1)) == 8
        theirs = tokenizer.LlamaTokenizer(model)
        assert ours.stop_tokens == theirs.stop_tokens
        assert (ours.bos_text, ours.eos_text) == (theirs.bos_text, theirs.eos_text)
        context.close()
    finally:
        model.close()


def test_a_key_is_shown_without_its_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(g.file({**g.KEYS, "a\x1b[31m": (g.ARRAY, (g.ARRAY, []))}))
    with pytest.raises(ArtifactError, match=r"a\\x1b\[31m is an array") as caught:
        check_artifact(path)
    assert "\x1b" not in str(caught.value)


EXPLAINED: dict[Any, Any] = {
    **{number: (of_type(number), "removed", "Q4_0") for number in (4, 5, 31, 32, 33)},
    **{number: (of_type(number), "removed", "IQ4_NL") for number in (36, 37, 38)},
    **{number: (of_type(number), "another program", "ik_llama.cpp") for number in (97, 137, 152, 230, 336)},
    **{number: (of_type(number), "newer llama.cpp", "Q4_K_M") for number in (43, 60)},
    **{number: (of_type(number), "intermediate", "Q8_0") for number in (9, 15)},
    "F16 norms": (of_type(1, 1, 2, norms=True), "must be F32", "converter"),
    "BF16 norms": (of_type(30, 1, 2, norms=True), "must be F32", "converter"),
    "version 1": (g.file()[:4] + struct.pack("<I", 1) + g.file()[8:], "GGUF version 1", "newer file"),
    "version 4": (g.file()[:4] + struct.pack("<I", 4) + g.file()[8:], "GGUF version 4", "newer edgeinfer"),
    "big-endian": (g.file()[:4] + struct.pack(">I", 3) + g.file()[8:], "big-endian", "gguf-convert-endian"),
    "empty": (b"", "is empty", "download it again"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer", "git lfs pull"),
    "HTML": (b"<!DOCTYPE html><html></html>", "web page", "/resolve/"),
    "ggjt": (b"tjgg\x03\0\0\0", "before GGUF", ".gguf"),
    "projector": (with_keys(general__architecture=(g.STRING, "clip")), "projector", "the model itself"),
    "adapter": (with_keys(general__type=(g.STRING, "adapter")), "adapter", "the model itself"),
    "no tokenizer": (with_keys(tokenizer__ggml__tokens=None), "no tokenizer", "holds its tokenizer"),
    "vocabulary none": (with_keys(tokenizer__ggml__model=(g.STRING, "none")), "no tokenizer", "holds its tokenizer"),
    "no positions": (with_keys(llama__context_length=(g.U32, 0)), "context_length is 0", "another file"),
    "RoPE base of 0": (with_keys(llama__rope__freq_base=(g.F32, 0.0)), "freq_base is 0.0", "another file"),
    "RoPE base of nan": (with_keys(llama__rope__freq_base=(g.F32, math.nan)), "freq_base is nan", "another file"),
}


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_refusal_of_a_file_that_the_engine_cannot_run_names_a_way_out(tmp_path: Path, name: str | int) -> None:
    raw, message, hint = EXPLAINED[name]
    path = tmp_path / "x.gguf"
    path.write_bytes(raw)
    with pytest.raises(ArtifactError) as caught:
        check_artifact(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert hint in caught.value.hint and HARM not in caught.value.hint


@pytest.mark.parametrize("number", [96, 401, 1 << 31, (1 << 32) - 1])
def test_unknown_types_are_damage(tmp_path: Path, number: int) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(of_type(number))
    with pytest.raises(ArtifactError, match=f"unknown type {number}") as caught:
        check_artifact(path)
    assert (HARM in caught.value.hint) == (number > 96)


def test_the_table_is_complete() -> None:
    assert set(ODDITIES) == set(Odd)
    assert all(bool(oddity.hint) == (oddity.answer != "ignored") for oddity in ODDITIES.values())
    assert GGML_TYPES[42].name == "Q2_0" and max(GGML_TYPES) == 42
