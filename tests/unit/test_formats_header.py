"""The GGUF reader: valid files are read exactly, and false ones are refused with position and values."""

from __future__ import annotations

import struct
import tracemalloc
from pathlib import Path

import pytest

from edgeinfer.errors import ArtifactError
from edgeinfer.formats import check_artifact, facts_from_gguf, read_header
from edgeinfer.formats.gguf_header import GgufArray, GgufHeader, parse_header
from tests import gguf_bytes as g

DEMO = Path(__file__).parents[2] / "edgeinfer" / "models" / "demo.Q4_0.gguf"


def parse(raw: bytes) -> GgufHeader:
    return parse_header(lambda offset, n: raw[offset : offset + n], len(raw), "x.gguf")


def refused(raw: bytes) -> str:
    with pytest.raises(ArtifactError) as caught:
        parse(raw)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_valid_header_is_read_exactly() -> None:
    header = parse(g.file())
    assert (header.version, header.alignment) == (3, 32)
    assert header.data_offset == -(-len(g.header()) // 32) * 32
    assert header.metadata["llama.attention.head_count"] == 4
    assert header.metadata["tokenizer.ggml.add_bos_token"] is False
    tokens, types = header.metadata["tokenizer.ggml.tokens"], header.metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, GgufArray) and isinstance(types, GgufArray)
    assert list(tokens) == ["<s>", "</s>", "a", "b", "c", "d", "e", "f"]
    assert types[1] == 3
    query = header.by_name["blk.0.attn_q.weight"]
    assert (query.shape, query.type.name, query.n_bytes) == ((32, 32), "F32", 4096)
    assert query.offset == header.data_offset + 1024 + 128  # after token_embd [8, 32] and attn_norm [32]


def test_the_gguf_package_reads_the_same_values(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "x.gguf"
    path.write_bytes(g.file())
    theirs, ours = gguf.GGUFReader(path), read_header(path)
    assert [(t.name, tuple(t.shape), t.tensor_type.name, t.data_offset, t.n_bytes) for t in theirs.tensors] == [
        (t.name, t.shape, t.type.name, t.offset, t.n_bytes) for t in ours.tensors
    ]
    for key, value in ours.metadata.items():
        plain = value if isinstance(value, str | int | float) else list(value)
        assert plain == theirs.fields[key].contents(), key


def test_the_facts_of_the_demo() -> None:
    header = check_artifact(DEMO)
    assert isinstance(header, GgufHeader)
    facts = facts_from_gguf(header)
    shape = facts.shape
    assert (facts.tier, facts.exit_layer, facts.has_template) == ("Q4_0", 3, True)
    assert (shape.architecture, shape.n_layers, shape.hidden, shape.n_heads, shape.n_vocab) == (
        "llama",
        12,
        512,
        8,
        16384,
    )
    assert (shape.limit, shape.n_params, shape.n_active_params) == (2048, 46_150_144, 46_150_144)
    assert [(kv.n_layers, kv.n_kv_heads, kv.head_dim, kv.window) for kv in shape.kv] == [(12, 4, 64, 0)]


def test_a_model_with_long_and_short_frequencies_has_two_limits() -> None:
    limits: dict[str, g.Typed] = {
        "llama.context_length": (g.U32, 131072),
        "llama.rope.scaling.original_context_length": (g.U32, 4096),
    }
    both = g.tensors({**g.SHAPES, "rope_factors_long.weight": (4,), "rope_factors_short.weight": (4,)})
    for tensors, short in ((both, 4096), (g.tensors(), 0)):
        shape = facts_from_gguf(parse(g.file(g.KEYS | limits, tensors) + bytes(64))).shape
        assert (shape.limit, shape.short_limit) == (131072, short)


def test_every_truncation_is_refused() -> None:
    raw = g.file()
    for cut in [*range(0, len(g.header()), 7), *range(len(g.header()), len(raw), 97)]:
        refused(raw[:cut])


def test_one_missing_byte_of_data_is_refused() -> None:
    assert "the file ends at" in refused(g.file()[:-1])


def patched(offset: int, raw: bytes) -> bytes:
    whole = g.file()
    return whole[:offset] + raw + whole[offset + len(raw) :]


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"GGML" + g.file()[4:], "starts with b'GGML'"),
        (patched(4, struct.pack("<I", 1)), "GGUF version 1"),
        (patched(4, struct.pack(">I", 3)), "big-endian"),
        (patched(8, struct.pack("<Q", 2**63)), "9223372036854775808 tensors"),
        (patched(16, struct.pack("<Q", 2**64 - 1)), "18446744073709551615 keys"),
        (patched(24, struct.pack("<Q", 2**64 - 1)), "a key has 18446744073709551615 bytes"),
        (g.file([*g.KEYS.items(), ("general.name", (g.STRING, "again"))]), "general.name appears twice"),
        (g.file({**g.KEYS, "general.alignment": (g.U32, 24)}), "general.alignment is 24"),
        (g.file({**g.KEYS, "general.alignment": (g.U32, 0)}), "general.alignment is 0"),
        (g.file({**g.KEYS, "x": (g.ARRAY, (g.ARRAY, []))}), "arrays inside arrays"),
    ],
)
def test_a_bad_preamble_or_value_is_refused(raw: bytes, message: str) -> None:
    assert message in refused(raw)


def with_tensor(name: str, shape: tuple[int, ...], number: int = 0, offset: int = 0) -> bytes:
    return g.file(listed=[*g.tensors()[1:], (name, shape, number, offset)])


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (with_tensor("t", (2**32, 2**32)), "has 18446744073709551616 values"),  # the product wraps to 0 in 64 bits
        (with_tensor("t", (2**31, 2**31, 2, 2)), "has 18446744073709551616 values"),
        (with_tensor("t", (2**61, 1)), "but the file ends at"),  # 2^61 * 4 bytes wraps to 2^63
        (with_tensor("t", (0,)), "has 0 values"),
        (with_tensor("t", (1,) * 5), "5 dimensions"),
        (with_tensor("t", (33,), 2), "no multiple of Q4_0's 32"),
        (with_tensor("t", (32,), 12), "no multiple of Q4_K's 256"),
        (with_tensor("t", (32,), 4), "unknown type 4"),
        (with_tensor("t", (32,), 0, 2**64 - 32), "but the file ends at"),  # offset + size wraps to 96
        (with_tensor("t", (32,), 0, 8), "not aligned to 32"),
        (with_tensor("t", (32,), 0, 1024), "overlap"),
        (with_tensor("output_norm.weight", (32,), 0, 0), "output_norm.weight appears twice"),
        (with_tensor("t" * 64, (32,)), "64 bytes; 1 to 63"),
    ],
)
def test_a_tensor_that_does_not_fit_the_file_is_refused(raw: bytes, message: str) -> None:
    assert message in refused(raw)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"llama.attention.head_count": (g.U32, 0)}, "head_count is 0"),
        ({"llama.attention.head_count_kv": (g.U32, 3)}, "4 heads over 3 KV heads"),
        ({"llama.attention.head_count_kv": (g.U32, 0)}, "4 heads over 0 KV heads"),
        ({"llama.block_count": (g.U32, 2**32 - 1)}, "block_count is 4294967295"),
        ({"llama.block_count": (g.U32, 2)}, "layer 1 has no tensors"),
        ({"llama.embedding_length": (g.U32, 64)}, "embedding_length is 64"),
        ({"llama.context_length": (g.U32, 0)}, "context_length is 0"),
        ({"llama.rope.dimension_count": (g.U32, 10)}, "rope.dimension_count is 10"),
        ({"llama.attention.layer_norm_rms_epsilon": (g.F32, -5.0)}, "layer_norm_rms_epsilon is -5.0"),
        ({"llama.rope.scaling.type": (g.STRING, "none of them")}, "rope.scaling.type is 'none of them'"),
        ({"llama.rope.freq_base": (g.F32, float("nan"))}, "freq_base is nan"),
        ({"llama.expert_count": (g.U32, 2), "llama.expert_used_count": (g.U32, 3)}, "expert_used_count is 3"),
        ({"tokenizer.ggml.tokens": (g.ARRAY, (g.STRING, g.TOKENS[:-1]))}, "7 tokens"),
        ({"tokenizer.ggml.tokens": (g.ARRAY, (g.STRING, [*g.TOKENS[:-1], "a"]))}, "the token 'a' appears twice"),
        ({"tokenizer.ggml.token_type": (g.ARRAY, (g.I32, [1]))}, "token_type"),
        ({"general.architecture": (g.STRING, "../x")}, "general.architecture is '../x'"),
        ({"llama.attention.shared_kv_layers": (g.I32, -1)}, "shared_kv_layers is -1"),
        ({"llama.attention.shared_kv_layers": (g.U32, 1)}, "shared_kv_layers is 1"),
        ({"llama.attention.sliding_window": (g.I32, -1)}, "sliding_window is -1"),
        ({"llama.attention.key_length_swa": (g.U32, 1 << 31)}, "key_length_swa is 2147483648"),
        ({"split.count": (g.U32, 3)}, "is one of 3 parts of a model, but is not named like one"),
    ],
)
def test_numbers_that_engines_do_not_check_are_refused(tmp_path: Path, keys: dict[str, g.Typed], message: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(g.file({**g.KEYS, **keys}))
    with pytest.raises(ArtifactError, match=r"x\.gguf(: | is)") as caught:
        check_artifact(path)
    assert message in str(caught.value)


@pytest.mark.parametrize("gone", ["token_embd.weight", "blk.0.attn_k.weight", "output_norm.weight"])
def test_a_model_without_a_tensor_it_needs_is_refused(tmp_path: Path, gone: str) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(g.file(listed=[tensor for tensor in g.tensors() if tensor[0] != gone]))
    with pytest.raises(ArtifactError, match=gone):
        check_artifact(path)


@pytest.mark.parametrize(
    ("name", "number"), [("output_norm.weight", 30), ("output_norm.weight", 24), ("blk.0.attn_q.weight", 24)]
)
def test_tensor_types_that_abort_the_engine_are_refused(tmp_path: Path, name: str, number: int) -> None:
    listed = [(n, shape, number if n == name else kind, offset) for n, shape, kind, offset in g.tensors()]
    path = tmp_path / "x.gguf"
    path.write_bytes(g.file(listed=listed))
    with pytest.raises(ArtifactError, match=f"the tensor {name} is of type"):
        check_artifact(path)


def test_a_long_text_is_refused_by_its_length() -> None:
    assert "x is a text of 16777216 bytes" in refused(g.file({**g.KEYS, "x": (g.STRING, "a" * (16 << 20))}))


@pytest.mark.parametrize("kind", ["key", "text", "long text", "strings", "numbers", "zeros"])
def test_huge_promises_cost_nothing(tmp_path: Path, kind: str) -> None:
    """A sparse file of 1 TB makes every promised size possible."""
    start = b"GGUF" + struct.pack("<IQQ", 3, 1, 1)
    raw = {
        "key": start + struct.pack("<Q", 2**39),
        "text": start + g.text("k") + struct.pack("<IQ", g.STRING, 2**39),
        "long text": start + g.text("k") + struct.pack("<IQ", g.STRING, 48 << 20),
        "strings": start + g.text("k") + struct.pack("<IIQ", g.ARRAY, g.STRING, 2**36),
        "numbers": start + g.text("k") + struct.pack("<IIQ", g.ARRAY, g.U64, 2**36),
        "zeros": start[:8] + struct.pack("<QQ", 60_000, 16_000) + g.text("k") + struct.pack("<II", g.U32, 1),
    }[kind]
    path = tmp_path / "sparse.gguf"
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(1 << 40)
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError):
            read_header(path)
        assert tracemalloc.get_traced_memory()[1] < 160e6
    finally:
        tracemalloc.stop()


def test_only_the_header_is_read() -> None:
    raw, seen = g.file() + b"\0" * (4 << 20), []

    def fetch(offset: int, n: int) -> bytes:
        seen.append((offset, n))
        return raw[offset : offset + n]

    parse_header(fetch, len(raw), "x")
    assert seen == [(0, 256 << 10)]
