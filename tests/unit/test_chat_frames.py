"""What a template writes around its messages, and where it puts a system prompt."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from edgeinfer.chat.frames import Frame, learn_frames, shared_start
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.errors import UsageError
from edgeinfer.types import Message
from tests.unit.chat_templates import KINDS, SYSTEM_IN_LAST_QUESTION, Characters

RULE, ASK, REPLY = Message("system", "Rule one."), Message("user", "Why?"), Message("assistant", "So.")


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    one = Renderer()
    yield one
    one.close()


def template(renderer: Renderer, source: str) -> Template:
    return Template(renderer, source, bos="<s>" if "bos_token" in source else "", eos="</s>")


@pytest.mark.parametrize(
    ("kind", "user", "assistant"),
    [
        ("chatml", ("<|im_start|>user\n", "<|im_end|>\n"), ("<|im_start|>assistant\n", "<|im_end|>\n")),
        ("eos instead of an opening", ("<|user|>\n", "<|end|>\n"), ("<|assistant|>\n", "<|end|>\n")),
        ("trimmed", ("<start_of_turn>user\n", "<end_of_turn>\n"), ("<start_of_turn>model\n", "<end_of_turn>\n")),
        ("plain turns", ("### User:\n", "\n\n"), ("### Assistant:\n", "\n\n")),
        ("always opened", ("<|user|>\n", ""), ("<|end|>\n<|assistant|>\n", "<|end|>\n")),
        ("system in last question", ("[INST]", ""), ("[/INST]", "</s>")),
    ],
)
def test_each_kind_of_template_has_its_frames(
    renderer: Renderer, kind: str, user: tuple[str, str], assistant: tuple[str, str]
) -> None:
    frames = learn_frames(template(renderer, KINDS[kind]))
    assert (frames.user, frames.assistant) == (Frame(*user), Frame(*assistant))


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        ("chatml", "<|im_start|>system\nRule one.<|im_end|>\n"),
        ("eos instead of an opening", "<|system|>\nRule one.<|end|>\n"),
        ("always opened", "<|system|>\nRule one.<|end|>\n"),
        ("trimmed", "<s><start_of_turn>system\nRule one.<end_of_turn>\n"),
        ("no system", "<s><start_of_turn>user\nRule one.\n\n"),
        ("dropped system", "<|user|>Rule one.\n\n"),
        ("system in question", "<s>[INST] <<SYS>>\nRule one.\n<</SYS>>\n\n"),
        ("system in last question", ""),
        ("plain turns", "### System:\nRule one.\n\n"),
        ("wants a question", "<|im_start|>system\nRule one.<|im_end|>\n"),
        ("indexes a question", "<|im_start|>system\nRule one.<|im_end|>\n"),
    ],
)
@pytest.mark.parametrize("talk", [[RULE, ASK], [RULE, ASK, REPLY, Message("user", "And then?")]])
def test_the_system_prompt_that_the_window_keeps(renderer: Renderer, kind: str, kept: str, talk: list[Message]) -> None:
    tokenizer = Characters("<s>", "</s>", "<|im_end|>")
    prompt = PromptBuilder(template(renderer, KINDS[kind]), tokenizer).build(talk)
    assert tokenizer.show(prompt.tokens[: prompt.n_system]) == kept
    assert "Rule one." in tokenizer.show(prompt.tokens)


def test_a_system_prompt_that_cannot_be_found_is_refused(renderer: Renderer) -> None:
    """The template reverses words, for example, so no message can be found in the text."""
    source = "{% for m in messages %}{{ m.content | reverse }}{% endfor %}"
    with pytest.raises(UsageError, match="system prompt") as caught:
        PromptBuilder(template(renderer, source), Characters()).build([RULE, ASK])
    assert "--template chatml" in caught.value.hint


def test_a_date_without_a_system_prompt_is_kept(renderer: Renderer) -> None:
    dated = "{% if messages[0].role != 'system' %}<|im_start|>system\nOn 26 Jul<|im_end|>\n{% endif %}" + CHATML
    tokenizer = Characters()
    prompt = PromptBuilder(template(renderer, dated), tokenizer).build([ASK])
    assert tokenizer.show(prompt.tokens[: prompt.n_system]) == "<|im_start|>system\nOn 26 Jul<|im_end|>\n"


@pytest.mark.parametrize(
    ("kind", "parts"),
    [
        ("chatml", ["<|im_start|>user\nuser<|im_end|>\n", "<|im_start|>assistant\nuser user<|im_end|>\n",
                    "<|im_start|>user\n<|im_end|><|im_end|>\n", "<|im_start|>assistant\n"]),
        ("eos instead of an opening", ["<|user|>\nuser<|end|>\n", "<|assistant|>\nuser user<|end|>\n",
                                       "<|user|>\n<|im_end|><|end|>\n", "<|assistant|>\n"]),
        ("plain turns", ["### User:\nuser\n\n", "### Assistant:\nuser user\n\n",
                         "### User:\n<|im_end|>\n\n", "### Assistant:\n"]),
        ("always opened", ["<|user|>\nuser", "<|end|>\n<|assistant|>\nuser user<|end|>\n",
                           "<|user|>\n<|im_end|>", "<|end|>\n<|assistant|>"]),
    ],
)  # fmt: skip
def test_every_message_begins_where_it_says(renderer: Renderer, kind: str, parts: list[str]) -> None:
    """Also when a message contains text that the template writes."""
    tokenizer = Characters("<s>", "</s>", "<|im_end|>")
    talk = [Message("user", "user"), Message("assistant", "user user"), Message("user", "<|im_end|>")]
    prompt = PromptBuilder(template(renderer, KINDS[kind]), tokenizer).build(talk)
    bounds = [0, *prompt.starts, len(prompt.tokens)]
    found = [tokenizer.show(prompt.tokens[a:b]) for a, b in pairwise(bounds)]
    assert found == parts


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("<|end|><|user|>", "<|end|><|eot|>", "<|end|>"),
        ("<|end|>\n<|endoftext|>", "<|end|>\n<|assistant|>", "<|end|>\n"),
        ("</s>[INST]", "</s>", "</s>"),
        ("\n\n### User", "\n\n", "\n\n"),
        ("a", "b", ""),
        ("[/INST]", "[/INFO]", ""),
    ],
)
def test_a_common_prefix_never_ends_inside_a_mark(one: str, other: str, shared: str) -> None:
    assert shared_start(one, other) == shared_start(other, one) == shared


def test_a_template_may_move_the_system_prompt_into_the_last_question(renderer: Renderer) -> None:
    tokenizer = Characters()
    prompt = PromptBuilder(template(renderer, SYSTEM_IN_LAST_QUESTION), tokenizer).build([RULE, ASK, REPLY, ASK])
    assert tokenizer.show(prompt.tokens) == "[INST]Why?[/INST]So.</s>[INST]Rule one.\n\nWhy?[/INST]"
