"""What `tune` learns from a chat template and from given conversations, with token ids written out."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edgeinfer.chat.template import Renderer, Template
from edgeinfer.errors import UsageError
from edgeinfer.formats.artifact import check_artifact
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.gguf_tokenizer import GgufTokenizer
from edgeinfer.protocols import Tokenizer
from edgeinfer.tune.prepare import encode_all, read_conversations, spans
from edgeinfer.tune.turns import find_turns
from edgeinfer.types import Message
from tests.tiny_gguf import CHATML, END, write_tiny

START = 1
QUESTION, ANSWER = Message("user", "ab"), Message("assistant", "ba")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    header = check_artifact(write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf"))
    assert isinstance(header, GgufHeader)
    return GgufTokenizer(header)


@pytest.fixture(scope="module")
def template() -> Iterator[Template]:
    renderer = Renderer()
    yield Template(renderer, CHATML)
    renderer.close()


def test_turns_of_chatml(tokenizer: Tokenizer, template: Template) -> None:
    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, special=False)

    turns = find_turns(template.render, tokenizer)
    assert turns.opening == (START, *ids("user\n"))
    assert turns.end == END
    assert turns.to_assistant == (*ids("\n"), START, *ids("assistant\n"))
    assert turns.to_user == (*ids("\n"), START, *ids("user\n"))


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda text: text.upper(), "does not repeat messages as they are"),
        (lambda text: text.replace("<|im_end|>", "[/]"), "no stop token"),
    ],
)
def test_templates_that_cannot_be_followed_are_refused(
    tokenizer: Tokenizer, template: Template, write: object, said: str
) -> None:
    def render(messages: Sequence[Message]) -> str:
        assert callable(write)
        return str(write(template.render(messages)))

    with pytest.raises(UsageError, match=said):
        find_turns(render, tokenizer)


def test_an_answer_and_its_end_are_the_assistants(template: Template) -> None:
    assert spans([QUESTION, ANSWER, QUESTION, ANSWER], template) == [
        ("<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n", False),
        ("ba<|im_end|>\n", True),
        ("<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n", False),
        ("ba<|im_end|>\n", True),
    ]


def test_given_text_is_one_row_of_tokens(tokenizer: Tokenizer, template: Template) -> None:
    given = encode_all([[QUESTION, ANSWER], [QUESTION, ANSWER]], template, tokenizer)
    answer = tokenizer.encode("ba<|im_end|>\n", special=True)
    n_before = len(given.tokens) // 2 - len(answer)
    assert given.by_assistant == (*[False] * n_before, *[True] * len(answer)) * 2
    assert given.tokens[n_before : n_before + len(answer)] == tuple(answer)


def test_conversations_without_an_answer_teach_nothing(tokenizer: Tokenizer, template: Template) -> None:
    with pytest.raises(UsageError, match="no conversation has an answer"):
        encode_all([[QUESTION]], template, tokenizer)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("no json", "line 2: no conversation"),
        ('{"messages": 7}', "line 2: no conversation"),
        ("[" * 100_000, "line 2: no conversation"),
        ('{"messages": [{"role": "robot", "content": "x"}]}', "line 2: roles are"),
        ('{"messages": [{"role": "user", "content": 7}]}', "line 2: roles are"),
        ('{"messages": []}', "line 2: roles are"),
    ],
)
def test_lines_that_are_no_conversation_are_refused(tmp_path: Path, line: str, said: str) -> None:
    file = tmp_path / "chats.jsonl"
    file.write_text('{"messages": [{"role": "user", "content": "x"}]}\n' + line + "\n")
    with pytest.raises(UsageError, match=said):
        read_conversations(file)


def test_an_empty_or_missing_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(UsageError, match="holds no conversation"):
        read_conversations(tmp_path / "empty.jsonl")
    with pytest.raises(UsageError, match="cannot read"):
        read_conversations(tmp_path / "missing.jsonl")
