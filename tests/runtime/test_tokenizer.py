"""The tokenizer of the phone gives the tokens of the `tokenizers` library."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.gguf_bpe import SPLITTINGS
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
from edgeinfer.formats.hf_tokenizer import HfTokenizer
from edgeinfer.formats.phone_tokenizer import check_tokenizer
from tests.runtime.text_library import ROOT, PhoneTokenizer, Refused, needs_compiler
from tests.runtime.texts import texts

DEMO = ROOT / "edgeinfer/models/demo.Q4_0.gguf"
N_TEXTS = {"demo": 10_000, "smollm2": 10_000, "llama-2": 10_000}  # 2,000 of the others
CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

pytestmark = needs_compiler


def tokenizer_of_gguf(gguf: Path, folder: Path) -> Path:
    GgufTokenizer(read_header(gguf)).save(folder / "tokenizer.json")
    return folder


def corpus() -> list[str]:
    return [path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md")]


def llama2_like(folder: Path, *, legacy: bool = True, scheme: str = "first", split: bool = False) -> Path:
    """SentencePiece BPE with byte fallback: `legacy` puts a space before every text, `scheme` is Metaspace's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    space = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=2000, special_tokens=first, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    fields = json.loads(tokenizer.to_str())
    fields["added_tokens"] = fields["added_tokens"][:3]
    fields["pre_tokenizer"] = None
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence(space)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def byte_level(folder: Path, *steps: Any, whole_words: bool = False) -> Path:
    """A small byte-level BPE with these pre-tokenizers, two control tokens and two added words."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(list(steps))
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        corpus(), trainers.BpeTrainer(vocab_size=1500, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), "  ", AddedToken("<|im_", normalized=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def qwen2_folder(folder: Path) -> Path:
    """As in Qwen's repositories, with a normalizer."""
    by_pattern("qwen2")(folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    fields = json.loads(tokenizer.to_str())
    for token in fields["added_tokens"]:
        token["normalized"] = False
    tokenizer = Tokenizer.from_str(json.dumps(fields))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def by_pattern(name: str) -> Callable[[Path], Path]:
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in SPLITTINGS[name].patterns]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return lambda folder: byte_level(folder, *steps, last, whole_words=SPLITTINGS[name].whole_first)


TEKKEN = SPLITTINGS["gpt-4o"].patterns[0].replace(r"\p{N}{1,3}", r"\p{N}").replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)?", "")
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
KINDS: dict[str, Callable[[Path], Path]] = {
    "demo": lambda folder: tokenizer_of_gguf(DEMO, folder),
    "llama-2": llama2_like,
    "metaspace-first": lambda folder: llama2_like(folder, legacy=False),
    "metaspace-always": lambda folder: llama2_like(folder, legacy=False, scheme="always", split=True),
    "metaspace-never": lambda folder: llama2_like(folder, legacy=False, scheme="never"),
    "gpt-2": lambda folder: byte_level(folder, GPT2),
    "smollm": lambda folder: byte_level(folder, pre_tokenizers.Digits(individual_digits=True), GPT2),
    "qwen2": by_pattern("qwen2"),
    "qwen2 with NFC": qwen2_folder,
    "llama-3": by_pattern("llama3"),
    "gpt-4o": by_pattern("gpt-4o"),
    "tekken": lambda folder: byte_level(
        folder,
        pre_tokenizers.Split(Regex(TEKKEN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ),
}


@pytest.fixture(scope="module", params=[*KINDS, "smollm2"])
def kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, HfTokenizer]:
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "smollm2":
        tokenizer_of_gguf(request.getfixturevalue("smollm2"), folder)
    else:
        KINDS[request.param](folder)
    return folder / "tokenizer.json", HfTokenizer(folder)


def test_every_text_has_the_tokens_of_the_library(
    kind: tuple[Path, HfTokenizer], request: pytest.FixtureRequest
) -> None:
    path, theirs = kind
    ours = PhoneTokenizer(path)
    controls = sorted({*CONTROLS, *theirs.control_texts, "<think>", "<|im_"})
    check_tokenizer(path)
    n_texts = N_TEXTS.get(request.node.callspec.params["kind"], 2_000)
    for index, text in enumerate(texts(n_texts, 1, controls)):
        special = bool(index % 2)
        assert ours.encode(text, special=special) == theirs.encode(text, special=special), ascii(text)


def test_every_token_has_the_bytes_of_the_library(kind: tuple[Path, HfTokenizer]) -> None:
    path, theirs = kind
    ours = PhoneTokenizer(path)
    for token in (*range(theirs.n_vocab), theirs.n_vocab, 1 << 30, -1):
        expected = theirs.piece(token) if 0 <= token < theirs.n_vocab else b""
        assert ours.piece(token) == expected, token


def test_long_words_and_texts_have_the_tokens_of_the_library(kind: tuple[Path, HfTokenizer]) -> None:
    path, theirs = kind
    ours = PhoneTokenizer(path)
    for text in ("a" * 20_000, "ab " * 20_000, " " * 20_000, "\n" * 5_000 + "x", "é" * 9_000, "<|im_end|>" * 3_000, ""):
        assert ours.encode(text, special=False) == theirs.encode(text, special=False)


def test_every_character_has_the_tokens_of_the_library_alone_and_between_letters(
    kind: tuple[Path, HfTokenizer],
) -> None:
    """All of Unicode, 64 characters at a time: a wrong class in the table changes where words are split."""
    path, theirs = kind
    ours = PhoneTokenizer(path)
    for start in range(0, 0x30000, 64):
        if 0xD800 <= start < 0xE000:
            continue
        text = "".join(f"a{chr(code)}1{chr(code)} {chr(code)}\n" for code in range(start, start + 64))
        assert ours.encode(text, special=False) == theirs.encode(text, special=False), hex(start)


def small() -> dict[str, Any]:
    """A tokenizer of two letters, as tokenizer.json."""
    model = {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
    added = {"id": 3, "content": "<|end|>", "special": True, "normalized": False}
    return {"added_tokens": [added], "normalizer": None, "pre_tokenizer": None, "model": model}


def test_a_small_tokenizer_by_hand(tmp_path: Path) -> None:
    (tmp_path / "t.json").write_text(json.dumps(small()))
    tokenizer = PhoneTokenizer(tmp_path / "t.json")
    assert tokenizer.encode("abba<|end|>", special=True) == [2, 1, 0, 3]
    assert tokenizer.encode("abba<|end|>", special=False) == [
        2,
        1,
        0,
    ]  # without `unk_token`, what is unknown is dropped


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda f: f["model"].update(type="WordPiece"), "its model is `WordPiece`, which is not read on a phone"),
        (lambda f: f["model"].update(dropout=0.1), "its model has `dropout`"),
        (lambda f: f["model"].update(end_of_word_suffix="</w>"), "its model has `end_of_word_suffix`"),
        (lambda f: f["model"].update(unk_token="?"), "`unk_token` is not in the vocabulary"),
        (lambda f: f["model"].update(byte_fallback=True), "it has no token <0x00>"),
        (lambda f: f["model"].update(merges=[["a", "c"]]), "merge 0 names a token that is not in the vocabulary"),
        (lambda f: f["model"].update(merges=[["a"]]), "merge 0 is not a pair"),
        (lambda f: f["model"].update(merges=["a b"]), "merge 0 is not a pair"),
        (lambda f: f["model"]["vocab"].update(c=2), "the token `c` has no id of its own"),
        (lambda f: f["model"]["vocab"].update(c=1 << 40), "the token `c` has no id of its own"),
        (lambda f: f["model"]["vocab"].update(c="x"), "the token `c` has no id of its own"),
        (lambda f: f["added_tokens"][0].update(id=1), "the added token `<|end|>` has the id of another one"),
        (lambda f: f["added_tokens"][0].update(content=""), "an added token has no text or no id"),
        (lambda f: f["added_tokens"][0].update(rstrip=True), "an added token has `rstrip`"),
        (lambda f: f.update(normalizer={"type": "Lowercase"}), "its normalizer is `Lowercase`"),
        (lambda f: f.update(pre_tokenizer={"type": "Whitespace"}), "its pre-tokenizer is `Whitespace`"),
        (lambda f: f.update(truncation={"max_length": 8}), "it sets `truncation`"),
        (lambda f: f.pop("model"), "it has no model"),
        (
            lambda f: f.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "(a*)*b"}, "behavior": "Isolated"}),
            "it splits by `(a*)*b`",
        ),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], cause: str
) -> None:
    fields = small()
    change(fields)
    (tmp_path / "t.json").write_text(json.dumps(fields))
    with pytest.raises(Refused) as caught:
        PhoneTokenizer(tmp_path / "t.json")
    assert cause in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 't.json'}: ")
    assert caught.value.hint == "export the model again"


OTHER_KINDS: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (lambda f: f["model"].update(type="Unigram"), "its model is `Unigram`"),
    (lambda f: f["model"].update(dropout=0.1), "its model has `dropout`"),
    (lambda f: f["model"].update(byte_fallback=True), "not a token for every byte"),
    (lambda f: f.update(normalizer={"type": "Lowercase"}), "its normalizer is `Lowercase`"),
    (lambda f: f.update(normalizer={"type": "Prepend", "prepend": "▁"}), "its normalizer is `Prepend`"),
    (lambda f: f.update(pre_tokenizer={"type": "Whitespace"}), "its pre-tokenizer is `Whitespace`"),
    (lambda f: f.update(pre_tokenizer={"type": "ByteLevel", "add_prefix_space": True}), "puts another space"),
    (lambda f: f.update(pre_tokenizer={"type": "Split", "pattern": {"Regex": "x"}}), "it splits by `x`"),
    (lambda f: f.update(truncation={"max_length": 8}), "it sets `truncation`"),
    (lambda f: f["added_tokens"][0].update(lstrip=True), "its token `<|end|>` has `lstrip`"),
]


@pytest.mark.parametrize(("change", "cause"), OTHER_KINDS, ids=[cause for _, cause in OTHER_KINDS])
def test_an_export_refuses_what_the_phone_would_refuse(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], cause: str
) -> None:
    fields = small()
    change(fields)
    (tmp_path / "t.json").write_text(json.dumps(fields))
    with pytest.raises(ArtifactError, match=re.escape(cause)):
        check_tokenizer(tmp_path / "t.json")
    with pytest.raises(Refused):
        PhoneTokenizer(tmp_path / "t.json")


def test_a_file_that_is_no_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    with pytest.raises(Refused, match="cannot be read: No such file"):
        PhoneTokenizer(path)
    whole = json.dumps(small()).encode()
    for data in (
        b"",
        whole[:-1],
        whole + b"x",
        whole.replace(b"null", b"nul"),
        b"\xef\xbb\xbf" + whole,
        b"[" * 99,
        b"\xff",
    ):
        path.write_bytes(data)
        with pytest.raises(Refused, match="is not JSON"):
            PhoneTokenizer(path)
