"""What is learned from a template: reasoning marks, where answers begin and end, and which reasoning it keeps."""

from collections.abc import Iterator

import pytest

from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.reasoning import NO_THINKING, SplitTrace, split_trace
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.chat.thinking import ThinkingSplitter
from edgeinfer.chat.trace_formats import THINK, pair
from edgeinfer.types import Message
from tests.unit.chat_templates import LOOP, NO_SYSTEM, SYSTEM_IN_LAST_QUESTION, Characters

CHANNELS = (  # reasoning is addressed to another recipient, whose name is in no table
    "{% for m in messages %}{% if m.role == 'assistant' %}{% if m.reasoning_content and loop.last %}"
    "<|go|>assistant for=me<|body|>{{ m.reasoning_content }}<|over|>{% endif %}"
    "<|go|>assistant for=you<|body|>{{ m.content }}<|out|>{% else %}<|go|>{{ m.role }}<|body|>{{ m.content }}<|out|>"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|go|>assistant{% endif %}"
)
COMPOSED = (  # the tags are built from a variable, so they do not appear in the source
    "{% set tag = 'muse:' ~ 'think' %}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.role == 'assistant' %}<{{ tag }}>{{ m.reasoning_content or '' }}</{{ tag }}>{% endif %}{{ m.content }}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
KEEPS_ANSWER = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
READS_REASONING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content and loop.last %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
OPENED_WITH_A_WORD = (
    "{% for m in messages %}<|{{ m.role }}|>{{ '>>>all\n' if m.role == 'assistant' else '' }}{{ m.content }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>>>>{% endif %}"
)
NAMES_REASONING_ONLY = CHATML + "{# #}{% if reasoning_budget %}{{ 'budget' }}{% endif %}"
CONTROL = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<|go|>", "<|body|>", "<|over|>", "<|out|>", "<|eot|>")


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    one = Renderer()
    yield one
    one.close()


def built(renderer: Renderer, source: str, *messages: Message, control: tuple[str, ...] = CONTROL) -> PromptBuilder:
    builder = PromptBuilder(Template(renderer, source, eos="</s>"), Characters(*control))
    builder.build(messages or (Message("user", "Why?"),), {"enable_thinking": True})
    return builder


def read(builder: PromptBuilder, said: str) -> tuple[str, str]:
    """The reasoning and the answer in a text that arrives letter by letter."""
    splitter = ThinkingSplitter(builder.form.traces, inside=builder.form.inside)
    segments = [segment for letter in said for segment in splitter.feed(letter)] + list(splitter.finish())
    thought = "".join(segment.text for segment in segments if segment.thinking)
    return thought, "".join(segment.text for segment in segments if not segment.thinking)


@pytest.mark.parametrize(
    ("source", "said", "expected"),
    [
        (CHANNELS, " for=me<|body|>why<|over|><|go|>assistant for=you<|body|>yes", ("why", "yes")),
        (CHANNELS, " for=you<|body|>yes", ("", "yes")),
        (COMPOSED, "<muse:think>why</muse:think>yes", ("why", "yes")),
        (OPENED_WITH_A_WORD, "all\nof them", ("", "of them")),
        (OPENED_WITH_A_WORD, "all of them", ("", "all of them")),
        (LOOP, "all\nof them", ("", "all\nof them")),
    ],
)
def test_how_answers_begin(renderer: Renderer, source: str, said: str, expected: tuple[str, str]) -> None:
    assert read(built(renderer, source), said) == expected


@pytest.mark.parametrize(
    ("source", "stop_tokens"),
    [
        (CHATML, {"<|im_end|>"}),
        (CHANNELS, {"<|out|>"}),  # not <|over|>, which ends reasoning, nor what opens an answer
        (OPENED_WITH_A_WORD, {"<|eot|>"}),
        (LOOP, set()),
    ],
)
def test_the_template_says_which_tokens_end_an_answer(renderer: Renderer, source: str, stop_tokens: set[str]) -> None:
    form = built(renderer, source).form
    assert {CONTROL[token] for token in form.stop_tokens} == stop_tokens


def test_a_mark_in_plain_text_ends_an_answer_too(renderer: Renderer) -> None:
    control = tuple(word for word in CONTROL if word != "<|im_end|>")
    assert built(renderer, CHATML, control=control).form.stops == ("<|im_end|>",)
    assert built(renderer, CHATML).form.stops == ()


TRACE = "<think>\nfirst <|im_end|>\n</think>\n\nFour."


@pytest.mark.parametrize(
    ("source", "written"),
    [
        (CHATML, "[<think>]\nfirst <|im_end|>\n[</think>]\n\nFour."),
        (KEEPS_ANSWER, "Four."),
        (READS_REASONING, "Four."),
    ],
)
def test_the_template_decides_whether_a_trace_in_history_is_kept(renderer: Renderer, source: str, written: str) -> None:
    """Control tokens are shown in brackets. The `<|im_end|>` that the trace spells out is text."""
    talk = [Message("user", "2+2?"), Message("assistant", TRACE), Message("user", "And?")]
    tokenizer = Characters(*CONTROL)
    tokens = PromptBuilder(Template(renderer, source, eos="</s>"), tokenizer).build(talk).tokens
    text = "".join(f"[{tokenizer.control[t]}]" if t < 1000 else chr(t - 1000) for t in tokens)
    assert f"[<|im_start|>]assistant\n{written}[<|im_end|>]\n" in text


@pytest.mark.parametrize("role", ["user", "system"])
def test_a_trace_in_a_question_is_text(renderer: Renderer, role: str) -> None:
    talk = [Message(role, TRACE), Message("user", "And?")]  # type: ignore[arg-type]
    tokens = PromptBuilder(Template(renderer, CHATML, eos="</s>"), Characters(*CONTROL)).build(talk).tokens
    assert CONTROL.index("<think>") not in tokens
    assert CONTROL.index("</think>") not in tokens


def test_only_a_complete_trace_at_the_beginning_counts() -> None:
    assert split_trace(" <think>a</think>b</think>", (THINK,)) == SplitTrace("<think>", "a", "</think>", "b</think>")
    for content in ("", "a <think>b</think>", "<think>never ends", "</think>b", "<thought>a</thought>b"):
        assert split_trace(content, (THINK,)) is None
    assert split_trace("<thought>a</thought>b", (THINK, pair("thought"))) is not None


@pytest.mark.parametrize(
    ("source", "said"),
    [(CHATML, ""), (NO_SYSTEM, "takes no system prompt"), (SYSTEM_IN_LAST_QUESTION, "into the newest message")],
)
def test_a_note_says_what_the_template_does_with_a_system_prompt(renderer: Renderer, source: str, said: str) -> None:
    builder = built(renderer, source, Message("system", "Be brief."), Message("user", "Why?"))
    assert said in "".join(builder.notices)
    assert bool(builder.notices) == bool(said)
    builder.build([Message("user", "Why?")])
    assert builder.notices == ()


@pytest.mark.parametrize(
    ("source", "control", "is_controlled"),
    [
        (CHATML, (), True),  # the template shows no reasoning
        ("You may use reasoning_content." + CHATML, (), True),
        (CHATML, ("<think>",), True),
        (NAMES_REASONING_ONLY, (), False),
        (NAMES_REASONING_ONLY, ("<think>",), True),
        (CHANNELS, (), True),
        (CHATML + "{% if not enable_thinking %}/no{% endif %}", (), True),
    ],
)
def test_whether_reasoning_can_be_turned_off(
    renderer: Renderer, source: str, control: tuple[str, ...], is_controlled: bool
) -> None:
    builder = PromptBuilder(Template(renderer, source), Characters(*control))
    assert builder.reasoning.is_controlled == is_controlled
    builder.build([Message("user", "Why?")], NO_THINKING)
