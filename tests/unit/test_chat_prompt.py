"""Prompts reuse the tokens that the cache holds, and message starts are exact."""

import re
from collections.abc import Iterator

import pytest

from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.types import Message, Tokens

SYSTEM, FIRST, SECOND = Message("system", "S"), Message("user", "a"), Message("user", "b")


class Letters:
    """One token per letter and control word. `ab` and `ba` are also tokens, so a text has several tokenizations."""

    n_vocab = 1000
    stop_tokens = frozenset({1})
    chat_template = None
    bos_text = eos_text = ""
    control = ("<|im_start|>", "<|im_end|>")
    control_texts = frozenset(control)

    def encode(self, text: str, *, special: bool) -> list[int]:
        words = re.findall((r"<\|im_start\|>|<\|im_end\|>|" if special else "") + r"ab|ba|[\s\S]", text)
        return [self.control.index(word) if word in self.control else self.id_of(word) for word in words]

    def id_of(self, word: str) -> int:
        return {"ab": 900, "ba": 901}.get(word) or ord(word)

    def piece(self, token: int) -> bytes:
        return {0: b"", 1: b"", 900: b"ab", 901: b"ba"}.get(token) or chr(token).encode()


@pytest.fixture
def renderer() -> Iterator[Renderer]:
    one = Renderer()
    yield one
    one.close()


def builder(renderer: Renderer, source: str = CHATML) -> PromptBuilder:
    return PromptBuilder(Template(renderer, source), Letters())


def starts_with(tokens: Tokens, place: int, text: str) -> bool:
    wanted = Letters().encode(text, special=True)
    return list(tokens[place : place + len(wanted)]) == wanted


def test_the_system_prompt_and_message_starts_by_hand(renderer: Renderer) -> None:
    prompt = builder(renderer).build([SYSTEM, FIRST])
    assert list(prompt.tokens) == Letters().encode(
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n", special=True
    )
    user, answer = prompt.starts
    assert prompt.n_system == user == 11
    assert starts_with(prompt.tokens, user, "<|im_start|>user")
    assert starts_with(prompt.tokens, answer, "<|im_start|>assistant")


def test_text_that_the_template_writes_first_is_kept_like_a_system_prompt(renderer: Renderer) -> None:
    build = builder(renderer, "BOS" + CHATML)
    for talk in ([FIRST], [FIRST, Message("assistant", "x"), SECOND]):
        prompt = build.build(talk)
        assert prompt.n_system == prompt.starts[0] == 3
        assert starts_with(prompt.tokens, 3, "<|im_start|>user")


def test_an_answer_keeps_the_tokens_that_were_emitted(renderer: Renderer) -> None:
    """ "ab" was emitted as two tokens; encoding the text again would give one."""
    build = builder(renderer)
    first = build.build([SYSTEM, FIRST])
    said = [ord("a"), ord("b")]
    build.answered(said, "ab")
    second = build.build([SYSTEM, FIRST, Message("assistant", "ab"), SECOND])
    assert list(second.tokens[: len(first.tokens) + 2]) == [*first.tokens, *said]
    assert second.tokens[len(first.tokens) + 2] == 1  # the turn's end comes from the template
    assert all(starts_with(second.tokens, start, "<|im_start|>") for start in second.starts)
    assert len(second.starts) == 4


def test_emitted_tokens_are_kept_in_later_turns(renderer: Renderer) -> None:
    build = builder(renderer)
    talk = [FIRST]
    for _ in range(5):
        build.build(talk)
        build.answered([ord("a"), ord("b")], "ab")
        talk += [Message("assistant", "ab"), SECOND]
    prompt = build.build(talk)
    assert 900 not in prompt.tokens
    assert len(prompt.starts) == len(talk)


def test_a_changed_answer_is_encoded_again_from_where_it_starts(renderer: Renderer) -> None:
    """For example after a stop string cut the text, or an edit of the conversation."""
    build = builder(renderer)
    first = build.build([SYSTEM, FIRST])
    build.answered([ord("a"), ord("b")], "ab")
    second = build.build([SYSTEM, FIRST, Message("assistant", "a"), SECOND])
    assert list(second.tokens[: len(first.tokens) + 2]) == [*first.tokens, ord("a"), 1]


def test_an_edited_conversation_shares_its_unchanged_beginning(renderer: Renderer) -> None:
    build = builder(renderer)
    first = build.build([SYSTEM, FIRST])
    build.answered([ord("x")], "x")
    second = build.build([SYSTEM, SECOND])
    assert second.tokens[: first.n_system] == first.tokens[: first.n_system]
    assert second.tokens == builder(renderer).build([SYSTEM, SECOND]).tokens
    assert second.starts == builder(renderer).build([SYSTEM, SECOND]).starts


def test_a_message_start_inside_a_token_is_not_listed(renderer: Renderer) -> None:
    """A token spans two messages ("a" + "b"), so the second message starts inside it."""
    prompt = builder(renderer, "{% for m in messages %}{{ m.content }}{% endfor %}").build(
        [FIRST, Message("assistant", "b"), Message("user", "c")]
    )
    assert list(prompt.tokens) == [900, ord("c")]
    assert prompt.starts == (2,)  # where the answer begins


def test_a_template_that_moves_the_system_prompt_has_no_message_starts(renderer: Renderer) -> None:
    source = (
        "{% for m in messages[1:] %}{% if loop.last %}{{ messages[0].content }}{% endif %}{{ m.content }}{% endfor %}"
    )
    assert builder(renderer, source).build([SYSTEM, FIRST]).n_system == 0


def test_the_opening_is_what_follows_the_last_message(renderer: Renderer) -> None:
    build = builder(renderer, CHATML + "{% if add_generation_prompt %}<think>\n{% endif %}")
    build.build([SYSTEM, FIRST])
    assert build.opening == "<|im_start|>assistant\n<think>\n"


def test_a_system_prompt_may_end_inside_a_token(renderer: Renderer) -> None:
    """`a` and `b` form one token, so that token counts as part of the question and may be evicted."""
    source = "{% for m in messages %}{{ m.content }}{% endfor %}"
    build = PromptBuilder(Template(renderer, source), Letters())
    prompt = build.build([Message("system", "Rule a"), Message("user", "b then")])
    assert list(prompt.tokens[: prompt.n_system]) == Letters().encode("Rule ", special=True)


@pytest.mark.parametrize(
    ("source", "leaves_out"),
    [
        ("{{ messages[-1].content }}", True),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", True),
        ("{% for m in messages %}{{ m.contents }}{% endfor %}", True),
        (CHATML, False),
        ("{% for m in messages %}{{ m.content[0].text }}{% endfor %}", False),
    ],
)
def test_a_template_that_leaves_a_message_out_is_mentioned(renderer: Renderer, source: str, leaves_out: bool) -> None:
    build = builder(renderer, source)
    build.build([FIRST])
    assert any("leaves out a part of what is said" in notice for notice in build.notices) == leaves_out
