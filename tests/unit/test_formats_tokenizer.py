"""The tokenizer read from GGUF metadata: equal to llama.cpp's, and its rules by hand."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.errors import ArtifactError
from edgeinfer.formats import GgufTokenizer, read_header
from edgeinfer.formats.gguf_header import parse_header
from tests import gguf_bytes as g

DEMO = Path(__file__).parents[2] / "edgeinfer" / "models" / "demo.Q4_0.gguf"
TEXTS = [
    "",
    " ",
    "Robert Boulter is an English film , television and theatre actor .",
    "I'll don't we'VE 1234567 3.14 $5,000\n\n\n  indented\t\ttabs   ",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "日本語のテスト 中文 한국어 🎉👩‍👩‍👧 naïve café e\u0301 Ωμέγα",
    "\r\n\r\n mixed \u00a0 spaces \u3000 and \u200b zero width",
    "x" * 300 + " " * 60 + "=" * 80,
    "def f(x):\n    return {'a': [1, 2, 3]}  # code\n",
    "½ ² ① Ⅷ ٣ \x00 \x7f \ufffd",
]
Tokenize = Callable[[str, bool], list[int]]


@pytest.fixture(scope="module")
def ours() -> GgufTokenizer:
    return GgufTokenizer(read_header(DEMO))


@pytest.fixture(scope="module")
def theirs() -> Iterator[tuple[Tokenize, Callable[[int], bytes]]]:
    llama = pytest.importorskip("llama_cpp")
    params = llama.llama_model_default_params()
    params.vocab_only = True
    model = llama.llama_model_load_from_file(str(DEMO).encode(), params)
    vocab = llama.llama_model_get_vocab(model)

    def tokenize(text: str, special: bool) -> list[int]:
        raw = text.encode()
        out = (ctypes.c_int32 * (len(raw) + 8))()
        n = llama.llama_tokenize(vocab, raw, len(raw), out, len(out), False, special)
        return list(out[:n])

    def piece(token: int) -> bytes:
        out = ctypes.create_string_buffer(512)
        n = llama.llama_token_to_piece(vocab, token, out, 512, 0, False)
        return out.raw[:n]

    yield tokenize, piece
    llama.llama_model_free(model)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("special", [False, True])
def test_same_tokens_as_llama_cpp(
    ours: GgufTokenizer, theirs: tuple[Tokenize, object], text: str, special: bool
) -> None:
    assert ours.encode(text, special=special) == theirs[0](text, special)


def test_same_pieces_as_llama_cpp(ours: GgufTokenizer, theirs: tuple[object, Callable[[int], bytes]]) -> None:
    assert [ours.piece(token) for token in range(ours.n_vocab)] == [theirs[1](token) for token in range(ours.n_vocab)]


def test_decoding_an_encoded_text_gives_the_text(ours: GgufTokenizer) -> None:
    @settings(max_examples=200, derandomize=True, database=None, deadline=None)
    @given(st.text(max_size=60))
    def check(text: str) -> None:
        tokens = ours.encode(text, special=False)
        assert b"".join(map(ours.piece, tokens)).decode() == text

    check()


def test_control_tokens_are_parsed_only_on_request(ours: GgufTokenizer) -> None:
    assert ours.encode("<|im_end|>", special=True) == [2]
    plain = ours.encode("<|im_end|>", special=False)
    assert 2 not in plain
    assert b"".join(map(ours.piece, plain)) == b"<|im_end|>"
    assert ours.piece(2) == b""


def test_facts_of_the_demo(ours: GgufTokenizer) -> None:
    assert ours.n_vocab == 16384
    assert ours.stop_tokens == {0, 2}  # <|endoftext|> and <|im_end|>
    assert (ours.bos_text, ours.eos_text) == ("", "<|im_end|>")
    assert ours.chat_template
    assert "<|im_start|>" in ours.chat_template


def tiny(keys: dict[str, g.Typed]) -> GgufTokenizer:
    raw = g.file({**g.KEYS, **keys})
    return GgufTokenizer(parse_header(lambda offset, n: raw[offset : offset + n], len(raw), "x"))


def test_bos_text_follows_the_flag_and_the_template() -> None:
    assert tiny({}).bos_text == ""
    assert tiny({"tokenizer.ggml.add_bos_token": (g.BOOL, 1)}).bos_text == "<s>"
    assert tiny({"tokenizer.chat_template": (g.STRING, "{{ bos_token }}")}).bos_text == "<s>"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"tokenizer.ggml.model": (g.STRING, "t5")}, "'t5'"),
        ({"tokenizer.ggml.pre": (g.STRING, "klingon")}, "'klingon'"),
        ({"tokenizer.ggml.merges": (g.ARRAY, (g.STRING, ["ab"]))}, "merge 'ab'"),
        ({"tokenizer.ggml.merges": (g.ARRAY, (g.STRING, ["x y"]))}, "does not load"),
    ],
)
def test_unknown_kinds_and_broken_merges_are_refused(keys: dict[str, g.Typed], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        tiny(keys).encode("a", special=False)
