"""The pieces that a template writes around messages, learned for phones and proven on rendered conversations."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from edgeinfer.chat.pieces import N_CONVERSATIONS, chat_pieces, conversations, text_of
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.chat_pieces import ChatPieces, Lead, ThinkingCut, chat_fields, read_chat
from edgeinfer.formats.tables import Table
from edgeinfer.types import Message
from tests.unit.chat_templates import KINDS, SYSTEM_IN_LAST_QUESTION, SYSTEM_IN_QUESTION, TRIMMED, Characters

OFF: Mapping[str, Any] = {"enable_thinking": False}
SMOLLM2 = (
    "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nBe smol.<|im_end|>\n"
    "{% endif %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\n\n</think>\n\n' }}{% else %}{{ '<think>\n' }}{% endif %}{% endif %}"
)
DATED = "<s>Today is {{ strftime_now('%d %b %Y') }}.\n" + CHATML
CONTROL = ("<|im_start|>", "<|im_end|>", "<s>", "</s>")


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made.close()


def pieces_of(renderer: Renderer, source: str, *control: str) -> ChatPieces:
    return chat_pieces(Template(renderer, source, bos="<s>", eos="</s>"), Characters(*(control or CONTROL)), OFF)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "system in last question"])
def test_every_kind_of_template_is_written_from_pieces(renderer: Renderer, kind: str) -> None:
    chat = pieces_of(renderer, KINDS[kind])
    messages = [Message("user", "one"), Message("assistant", "two"), Message("user", "three")]
    assert text_of(chat.thinking, messages) == Template(renderer, KINDS[kind], bos="<s>", eos="</s>").render(messages)


def test_the_test_conversations_cover_every_kind() -> None:
    all_of_them = list(conversations())
    assert len(all_of_them) == N_CONVERSATIONS
    assert {len(messages) for messages in all_of_them} >= {1, 2, 3, 4, 13, 14}
    assert sum(messages[0].role == "system" for messages in all_of_them) > 50
    assert all(messages[-1].role == "user" for messages in all_of_them)


def test_a_templates_default_system_prompt_is_learned(renderer: Renderer) -> None:
    pieces = pieces_of(renderer, SMOLLM2).thinking
    assert pieces.plain == Lead("<s><|im_start|>system\nBe smol.<|im_end|>\n", "", "<|im_start|>user\n")
    assert pieces.system == Lead("<s><|im_start|>system\n", "<|im_end|>\n", "<|im_start|>user\n")


def test_a_question_that_holds_the_system_prompt_is_not_framed(renderer: Renderer) -> None:
    pieces = pieces_of(renderer, SYSTEM_IN_QUESTION).thinking
    assert pieces.system == Lead("<s>[INST] <<SYS>>\n", "\n<</SYS>>\n\n", "")
    assert pieces.plain == Lead("<s>", "", "[INST] ")


def test_reasoning_of_earlier_answers_is_left_out(renderer: Renderer) -> None:
    chat = pieces_of(renderer, QWEN3)
    assert chat.thinking.cut == ThinkingCut("</think>", "newlines")
    assert chat.thinking.begun is not None and chat.thinking.begun.opening == "<think>"
    assert chat.no_thinking.begun is None and chat.no_thinking.opening.endswith("</think>\n\n")
    talk = [Message("user", "a"), Message("assistant", "<think>\nwhy\n</think>\n\nb"), Message("user", "c")]
    assert "why" not in text_of(chat.thinking, talk)


def test_marks_that_are_tokens_are_left_out_only_where_an_answer_begins_with_them(renderer: Renderer) -> None:
    """Otherwise they are hidden from the template, and stay text."""
    pieces = pieces_of(renderer, QWEN3, *CONTROL, "<think>", "</think>").thinking
    assert (pieces.cut, pieces.earlier_trace) == (None, "newlines")
    assert pieces_of(renderer, CHATML).thinking.earlier_trace == "kept"


def test_contents_that_are_written_without_space_at_their_ends(renderer: Renderer) -> None:
    assert pieces_of(renderer, TRIMMED).thinking.stripped == ("system", "user", "assistant")


def test_a_date_is_kept_as_a_format(renderer: Renderer) -> None:
    assert pieces_of(renderer, DATED).thinking.plain.before == "<s>Today is \ufdd2%d %b %Y\ufdd3.\n"
    with pytest.raises(ArtifactError, match="it writes the date as `%c`"):
        pieces_of(renderer, DATED.replace("%d %b %Y", "%c"))


def test_a_template_that_cannot_be_written_from_pieces_is_refused(renderer: Renderer) -> None:
    with pytest.raises(ArtifactError, match="does not write the system prompt before the first question"):
        pieces_of(renderer, SYSTEM_IN_LAST_QUESTION)
    shouts = CHATML.replace("message['content']", "(message['content'] | replace('bold', 'BOLD'))")
    with pytest.raises(
        ArtifactError, match=r"conversation \d+ of 200 differs after '.*<b>': 'BOLD.*'bold.*\[\[\""
    ) as caught:
        pieces_of(renderer, shouts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [CHATML, QWEN3, SYSTEM_IN_QUESTION, DATED])
def test_pieces_survive_a_round_trip_through_json(renderer: Renderer, source: str) -> None:
    chat = pieces_of(renderer, source)
    assert read_chat(Table(json.loads(json.dumps(chat_fields(chat))), "x")) == chat
