"""SmolLM2-135M-Instruct, a real model: its tokenizer, template, end tokens and one answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeinfer.chat.template import Renderer, Template
from edgeinfer.formats import GgufHeader, GgufTokenizer, check_artifact, facts_from_gguf
from edgeinfer.types import Message

pytest.importorskip("llama_cpp", reason="the engine is not here")
from edgeinfer.backends.gguf import llama
from edgeinfer.backends.gguf.tokenizer import LlamaTokenizer

TEXTS = (
    *("", " ", "  ", "\n", " \n \t\n", "Hello, world!", " leading", "trailing ", "a  b   c", "x\r\ny"),
    *("1234567 + 89 = ?", "3.14e-10", "don't you'll I've", "DON'T", "snake_case camelCase kebab-case"),
    *("Äpfel, Öl und Straße", "naïve café — déjà vu", "Съешь ещё этих булок", "日本語のテキスト", "한국어"),
    *("العربية فارسی", "\U0001f44d\U0001f3fd \U0001f469\u200d\U0001f467", "e\u0301 combined", "\u200bzero"),
    *("\u00a0no-break\u202f1\u202f000", "\ufb01 ligature", "A" * 200, "\x00\x01\x7f", "tab\tseparated"),
    *("def f(x):\n    return x ** 2  # square\n", '{"a": [1, 2, {"b": null}]}', "<|im_start|>user\nhi<|im_end|>\n"),
    "<repo_name> <reponame> <file_sep> <|endoftext|>",
)


@pytest.fixture(scope="module")
def header(smollm2: Path) -> GgufHeader:
    checked = check_artifact(smollm2)
    assert isinstance(checked, GgufHeader)
    return checked


@pytest.fixture(scope="module")
def engine(smollm2: Path) -> Iterator[LlamaTokenizer]:
    model = llama.load(smollm2)
    yield LlamaTokenizer(model)
    model.close()


def test_both_tokenizers_split_text_alike(header: GgufHeader, engine: LlamaTokenizer) -> None:
    own = GgufTokenizer(header)
    for special in (False, True):
        for text in TEXTS:
            assert own.encode(text, special=special) == engine.encode(text, special=special), (text, special)
            if not special:
                back = b"".join(own.piece(token) for token in own.encode(text, special=False))
                assert back == text.encode()
    assert [own.piece(token) for token in range(own.n_vocab)] == [engine.piece(t) for t in range(engine.n_vocab)]


def test_the_tokens_that_end_an_answer(header: GgufHeader, engine: LlamaTokenizer) -> None:
    """<|endoftext|> 0, <|im_end|> 2, and <reponame> 4, with which the next file of a repository would begin."""
    assert GgufTokenizer(header).stop_tokens == engine.stop_tokens == {0, 2, 4}


def test_the_facts_of_smollm2(header: GgufHeader) -> None:
    facts = facts_from_gguf(header)
    assert (facts.tier, facts.license, facts.shape.n_params) == ("Q4_1", "apache-2.0", 134_515_008)


def test_the_template_writes_turns_and_a_default_system_prompt(engine: LlamaTokenizer) -> None:
    assert engine.chat_template is not None
    renderer = Renderer()
    try:
        template = Template(renderer, engine.chat_template, bos=engine.bos_text, eos=engine.eos_text)
        text = template.render([Message("user", "Hi")])
    finally:
        renderer.close()
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")
    assert text.endswith("<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_smollm2_answers_a_question(smollm2: Path) -> None:
    import edgeinfer
    from edgeinfer.types import Sampling

    request = edgeinfer.Request(model=str(smollm2), context=1024, min_tokens_per_s=0.001)
    with edgeinfer.load(request) as model:
        answer = model.chat(sampling=Sampling(temperature=0.0), max_tokens=32).ask("hello")
    assert answer.text == "Hello! How can I assist you today?", "it ends by itself, without the text of <|im_end|>"
