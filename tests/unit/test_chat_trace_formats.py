"""Which reasoning marks a model may use, and whether the template has opened a trace."""

from collections.abc import Iterator

import pytest

from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.chat.thinking import ThinkingSplitter
from edgeinfer.chat.trace_formats import THINK, may_use, mentioned_in, open_trace, pair
from edgeinfer.types import Message
from tests.unit.chat_templates import EOS_INSTEAD_OF_AN_OPENING, KINDS, LOOP, Characters

NO_TOKENS = Characters()
HARMONY_SOURCE = "<|channel|>analysis<|message|>{{ t }}<|end|> <|start|>assistant<|channel|>final<|message|>"


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    one = Renderer()
    yield one
    one.close()


@pytest.mark.parametrize(
    ("source", "said", "thought", "answer"),
    [
        ("", "<think>why</think>yes", "why", "yes"),
        ("<think>x</think>", "<think>\nwhy\n</think>\n\nyes", "why\n", "yes"),
        ("<seed:think>x</seed:think>", "<seed:think>why</seed:think>yes", "why", "yes"),
        ("[THINK]x[/THINK]", "[THINK]why[/THINK]yes", "why", "yes"),
        ("<thought>x</thought>", "<thought>why</thought>yes", "why", "yes"),
        ("<reasoning>x</reasoning>", "<reasoning>why</reasoning>yes", "why", "yes"),
        ("<deep_thinking>x</deep_thinking>", "<deep_thinking>why</deep_thinking>yes", "why", "yes"),
        ("◁think▷x◁/think▷", "◁think▷why◁/think▷yes", "why", "yes"),
        ("<|START_THINKING|>x<|END_THINKING|>", "<|START_THINKING|>why<|END_THINKING|><|START_RESPONSE|>yes",
         "why", "yes"),
        ("'<|channel>thought\\n' x '<channel|>'", "<|channel>thought\nwhy<channel|>yes", "why", "yes"),
        (HARMONY_SOURCE, "<|channel|>analysis<|message|>why<|end|><|start|>assistant<|channel|>final<|message|>yes",
         "why", "yes"),
        (HARMONY_SOURCE, "<|channel|>final<|message|>yes", "", "yes"),
        ("Here are my reasoning steps:\\n [BEGIN FINAL RESPONSE]",
         "Here are my reasoning steps:\nwhy\n[BEGIN FINAL RESPONSE]\nyes", "why\n", "yes"),
        ("", "<reasoning>is a tag", "", "<reasoning>is a tag"),
        ("", "[THINK]why[/THINK]yes", "", "[THINK]why[/THINK]yes"),
    ],
)  # fmt: skip
def test_the_reasoning_of_each_family_is_separated(source: str, said: str, thought: str, answer: str) -> None:
    for pieces in ([said], list(said)):
        splitter = ThinkingSplitter(may_use(source, NO_TOKENS, None))
        segments = [segment for piece in pieces for segment in splitter.feed(piece)] + list(splitter.finish())
        assert "".join(segment.text for segment in segments if segment.thinking) == thought
        assert "".join(segment.text for segment in segments if not segment.thinking) == answer


def test_marks_of_the_template_come_before_those_of_the_catalog_and_the_vocabulary() -> None:
    tokenizer = Characters("[THINK]", "[/THINK]")
    formats = may_use("<seed:think></seed:think>", tokenizer, ("<thought>", "</thought>"))
    assert [known.opening for known in formats] == ["<seed:think>", "<thought>", "[THINK]", "<think>"]


@pytest.mark.parametrize("source", ["<think>", "</think>", "<thinking_instructions>", "<|think|>", "{{ reasoning }}"])
def test_a_format_needs_both_of_its_tags(source: str) -> None:
    assert list(mentioned_in(source)) == []


@pytest.mark.parametrize(
    ("opening", "inside"),
    [
        ("<|im_start|>assistant\n", None),
        ("assistant\n<think>\n", "<think>"),
        ("<think>\n\n</think>\n\n", None),
        ("<think></think><think>", "<think>"),
        ("<assistant><deep_thought>\n", "<deep_thought>"),
        ("a <deep_thought> b", None),
        ("", None),
    ],
)
def test_a_template_may_open_the_trace(opening: str, inside: str | None) -> None:
    found = open_trace(opening, (THINK,))
    assert (found and found.opening) == inside


ALWAYS = LOOP + "<|assistant|><think>\n"
IN_ELSE = LOOP + "{% if add_generation_prompt %}<|assistant|><think>\n{% else %}{{ eos_token }}{% endif %}"
LAST_TRIMMED = (
    "{% for m in messages %}{{ m.role + ': ' + (m.content | trim | upper if loop.last else m.content) + '\n' }}"
    "{% endfor %}<think>"
)


@pytest.mark.parametrize("source", [ALWAYS, IN_ELSE, LAST_TRIMMED, CHATML + "<think>\n\n"])
@pytest.mark.parametrize("question", ["Why?", " why </think> ", "</think>", "a</think>b"])
def test_the_opening_is_read_from_the_end_of_the_text(renderer: Renderer, source: str, question: str) -> None:
    build = PromptBuilder(Template(renderer, source, eos="</s>"), Characters("</think>", "<think>"))
    build.build([Message("user", question)])
    assert open_trace(build.opening, (THINK,)) == THINK


def test_a_tag_in_the_question_opens_no_trace(renderer: Renderer) -> None:
    for source in (CHATML, EOS_INSTEAD_OF_AN_OPENING, LOOP):
        build = PromptBuilder(Template(renderer, source, eos="</s>"), Characters())
        build.build([Message("user", "What does <think> do? <think>")])
        assert open_trace(build.opening, (THINK,)) is None


def test_a_tag_in_a_question_that_the_template_changes_opens_no_trace(renderer: Renderer) -> None:
    source = "{% for m in messages %}{{ m.content | replace('a', 'o') }}\n{% endfor %}"
    build = PromptBuilder(Template(renderer, source), Characters("<think>", "</think>"))
    build.build([Message("user", "What is a <think>")])
    assert open_trace(build.opening, (THINK,)) is None


@pytest.mark.parametrize(
    ("kind", "control", "stops"),
    [
        ("chatml", ("<|im_start|>", "<|im_end|>"), ()),
        ("chatml", (), ("<|im_end|>",)),
        ("chatml", ("<s>",), ("<|im_end|>",)),
        ("trimmed", (), ("<end_of_turn>",)),
        ("trimmed", ("<end_of_turn>",), ()),
        ("plain turns", (), ("### User:",)),
        ("eos instead of an opening", ("<|end|>",), ()),
        ("system in question", ("</s>",), ()),
        ("system in question", (), ("</s>",)),
    ],
)
def test_a_stop_text_ends_an_answer_where_no_token_does(
    renderer: Renderer, kind: str, control: tuple[str, ...], stops: tuple[str, ...]
) -> None:
    build = PromptBuilder(Template(renderer, KINDS[kind], eos="</s>"), Characters(*control))
    build.build([Message("user", "Why?")])
    assert build.form.stops == stops


def test_a_format_is_found_by_name() -> None:
    assert (pair("x").opening, pair("x").ending) == ("<x>", "\n</x>\n\n")
