"""The small files of a model folder, in the forms that different programs write."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.hf_folder import card_claims, chat_template, read_json, special_text
from edgeinfer.formats.hf_tokenizer import HfTokenizer

TEXTS = ("<pad>", "<a>", "<b>", "<c>", "hello")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of five words; the first four are control tokens."""
    tokenizers = pytest.importorskip("tokenizers")
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel({text: n for n, text in enumerate(TEXTS)}, "<pad>"))
    engine.add_special_tokens(list(TEXTS[:4]))
    engine.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def write(folder: Path, **files: object) -> Path:
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


@pytest.mark.parametrize(
    ("files", "stops"),
    [
        ({"generation_config": {"eos_token_id": 1}}, {1}),
        ({"generation_config": {"eos_token_id": [1, 2]}}, {1, 2}),
        ({"generation_config": {"eos_token_id": 3.0}}, {3}),
        ({"generation_config": {"eos_token_id": [1.0, None, 3]}}, {1, 3}),
        ({"generation_config": {"eos_token_id": None}}, set()),
        ({"generation_config": {"eos_token_id": [99, -1, True, "1", 1.5, float("inf")]}}, set()),
        ({"config": {"eos_token_id": 2}}, {2}),
        ({"config": {"eos_token_id": [2, 3]}, "generation_config": {"eos_token_id": None}}, {2, 3}),
        ({"config": {"eos_token_id": 1, "text_config": {"eos_token_id": 2}}}, {1, 2}),
        ({"tokenizer_config": {"eos_token": "<c>"}}, {3}),
        ({"tokenizer_config": {"eos_token": {"content": "<c>", "lstrip": False}}}, {3}),
        ({"tokenizer_config": {"eos_token": None}, "special_tokens_map": {"eos_token": "<b>"}}, {2}),
        ({"special_tokens_map": {"eos_token": {"content": "<b>"}}}, {2}),
        ({"special_tokens_map": {"eos_token": ["<a>", {"content": "<b>"}]}}, {1, 2}),
        ({"tokenizer_config": {"eos_token": "<none>"}}, set()),
        (
            {
                "config": {"eos_token_id": 0},
                "generation_config": {"eos_token_id": 1},
                "tokenizer_config": {"eos_token": "<b>"},
                "special_tokens_map": {"eos_token": "<c>"},
            },
            {0, 1, 2, 3},
        ),
    ],
)
def test_the_end_token_is_found_in_every_file_that_may_name_it(
    folder: Path, files: dict[str, object], stops: set[int]
) -> None:
    assert HfTokenizer(write(folder, **files)).stop_tokens == stops


def test_a_well_known_end_token_needs_no_entry(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = {"hello": 0, "<|im_end|>": 1, "<end_of_turn>": 2, "</s>": 3}
    engine = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "hello"))
    engine.add_special_tokens(["<|im_end|>", "<end_of_turn>"])
    engine.save(str(tmp_path / "tokenizer.json"))
    assert HfTokenizer(tmp_path).stop_tokens == {1, 2}, "</s> is a plain word in this vocabulary"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_byte_order_marks_are_removed(folder: Path, encoding: str) -> None:
    config = {"eos_token": "<c>", "chat_template": "ä"}
    (folder / "tokenizer_config.json").write_bytes(json.dumps(config, ensure_ascii=False).encode(encoding))
    (folder / "generation_config.json").write_bytes(json.dumps({"eos_token_id": 1}).encode(encoding))
    found = HfTokenizer(folder)
    assert found.stop_tokens == {1, 3}
    assert found.chat_template == "ä"


def test_a_large_tokenizer_configuration_is_read(folder: Path) -> None:
    added = {str(n): {"content": f"<unused{n}>", "special": True} for n in range(40_000)}
    write(folder, tokenizer_config={"added_tokens_decoder": added, "eos_token": "<c>", "chat_template": "T"})
    assert (folder / "tokenizer_config.json").stat().st_size > 1 << 20
    assert chat_template(folder) == "T"
    assert HfTokenizer(folder).stop_tokens == {3}


@pytest.mark.parametrize(
    ("template", "found"),
    [
        ("T", "T"),
        (None, None),
        ([{"name": "tool_use", "template": "U"}, {"name": "default", "template": "T"}], "T"),
        ([{"name": "chat", "template": "T"}], "T"),
        ([{"name": "a", "template": "A"}, {"name": "b", "template": "B"}], None),
        ([], None),
        ([None, 3, {"name": "default"}], None),
        ({"default": "T", "rag": "R"}, "T"),
        (3, None),
    ],
)
def test_the_template_is_found_in_each_file_that_may_hold_it(
    tmp_path: Path, template: object, found: str | None
) -> None:
    for name in ("tokenizer_config", "chat_template"):
        folder = tmp_path / name
        folder.mkdir()
        assert chat_template(write(folder, **{name: {"chat_template": template}})) == found


def test_a_template_in_a_separate_file_comes_first(tmp_path: Path) -> None:
    write(tmp_path, tokenizer_config={"chat_template": "config"})
    assert chat_template(tmp_path) == "config"
    write(tmp_path, chat_template={"chat_template": "json"})
    assert chat_template(tmp_path) == "json"
    (tmp_path / "chat_template.jinja").write_bytes("\ufeffjinja".encode())
    assert chat_template(tmp_path) == "jinja"


@pytest.mark.parametrize("raw", [b"[1]", b"{", b"\xff\xfe\xfd", b"[" * 100_000, b"", b"nothing"])
def test_json_that_is_not_an_object_is_refused_in_one_line(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(raw)
    with pytest.raises(ArtifactError) as caught:
        read_json(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_the_bos_is_found_in_either_file(tmp_path: Path) -> None:
    write(tmp_path, special_tokens_map={"bos_token": {"content": "<s>"}})
    assert special_text(tmp_path, "bos_token") == "<s>"
    write(tmp_path, tokenizer_config={"bos_token": "<bos>"})
    assert special_text(tmp_path, "bos_token") == "<bos>"
    assert read_json(tmp_path / "none.json") == {}


@pytest.mark.parametrize(
    ("card", "claims"),
    [
        ("---\nlicense: apache-2.0\nbase_model: org/Base-1B\n---\n# x", ("apache-2.0", "org/Base-1B")),
        ("---\nbase_model:\n- org/Base.v2\n- org/other\nlicense: 'mit'\n---\n", ("mit", "org/Base.v2")),
        ("---\r\nlicense: other\r\nlicense_name: llama3.2\r\n---\r\n", ("llama3.2", "")),
        ("# no head\nlicense: mit\n", ("", "")),
        ("---\nlicense: mit\n", ("", "")),
    ],
)
def test_the_license_of_a_model_card_is_read(tmp_path: Path, card: str, claims: tuple[str, str]) -> None:
    (tmp_path / "README.md").write_bytes(card.encode())
    assert card_claims(tmp_path) == claims
    assert card_claims(tmp_path / "none") == ("", "")


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}


def byte_level(folder: Path, **changes: object) -> HfTokenizer:
    """Two letters and a space, with one word that was added to them."""
    word = {"id": 4, "content": "né", "special": False, "single_word": False, "lstrip": False, "rstrip": False}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [word | {"normalized": False}],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": None,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u0120": 3}, "merges": ["a b"]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer | changes))
    pytest.importorskip("tokenizers")
    return HfTokenizer(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"truncation": {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}},
        {
            "padding": {
                "strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None,
                "pad_id": 0, "pad_type_id": 0, "pad_token": "a",
            }
        },
        {"decoder": None},
        {"decoder": {"type": "Sequence", "decoders": [BYTE_LEVEL]}},
        {"decoder": None, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [BYTE_LEVEL]}},
    ],
    ids=["plain", "truncated", "padded", "no decoder", "several decoders", "several pre-tokenizers"],
)  # fmt: skip
def test_every_byte_of_a_text_comes_back(tmp_path: Path, changes: dict[str, object]) -> None:
    tokenizer = byte_level(tmp_path, **changes)
    tokens = tokenizer.encode("ab anéb", special=False)
    assert tokens == [2, 3, 0, 4, 1]
    assert b"".join(map(tokenizer.piece, tokens)) == "ab anéb".encode()


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16"])
def test_a_template_of_its_own_is_read_in_its_codec(tmp_path: Path, codec: str) -> None:
    (tmp_path / "chat_template.jinja").write_bytes("é".encode(codec))
    assert chat_template(tmp_path) == "é"


@pytest.mark.parametrize("content", [b"caf\xe9", b"x" * ((1 << 20) + 1)], ids=["latin-1", "large"])
def test_a_template_that_is_no_text_is_not_read_in_part(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(content)
    with pytest.raises(ArtifactError, match=r"chat_template\.jinja is"):
        chat_template(tmp_path)


def with_decoder(decoder: object) -> dict[str, object]:
    return {"decoder": decoder}


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"model": {"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##",
                    "max_input_chars_per_word": 9, "vocab": {"a": 0, "##b": 1}}}, "WordPiece model has continuing"),
        ({"model": {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": {"a</w>": 0}, "merges": []}},
         "BPE model has end_of_word_suffix '</w>'"),
        (with_decoder({"type": "BPEDecoder", "suffix": "</w>"}), "its decoder is BPEDecoder"),
        (with_decoder({"type": "WordPiece", "prefix": "##", "cleanup": True}), "its decoder is WordPiece"),
        (with_decoder({"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": True}),
         "its decoder writes '_' for a space"),
        (with_decoder({"type": "Sequence", "decoders": [
            {"type": "Fuse"}, {"type": "Metaspace", "replacement": "~", "prepend_scheme": "never", "split": True}]}),
         "its decoder writes '~' for a space"),
    ],
)  # fmt: skip
def test_a_tokenizer_whose_pieces_would_be_spelled_wrongly_is_refused(
    folder: Path, changes: dict[str, object], cause: str
) -> None:
    path = folder / "tokenizer.json"
    fields = json.loads(path.read_text())
    path.write_text(json.dumps({**fields, "added_tokens": [], **changes}))
    with pytest.raises(ArtifactError, match=cause):
        HfTokenizer(folder)
