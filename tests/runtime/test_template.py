"""The phone writes and encodes conversations as Python does with Jinja."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeinfer.chat.pieces import chat_pieces, conversations
from edgeinfer.chat.prompt import PromptBuilder
from edgeinfer.chat.reasoning import NO_THINKING
from edgeinfer.chat.rendering import ConversationWriter
from edgeinfer.chat.template import CHATML, Renderer, Template
from edgeinfer.formats.hf_tokenizer import HfTokenizer
from edgeinfer.types import Message
from tests.runtime.test_tokenizer import DEMO, by_pattern, llama2_like, tokenizer_of_gguf
from tests.runtime.text_library import PhoneChat, PhoneTokenizer, Refused, needs_compiler
from tests.runtime.texts import texts
from tests.unit.chat_templates import ALWAYS_OPENED, NO_SYSTEM, SYSTEM_IN_QUESTION, TRIMMED
from tests.unit.test_chat_pieces import DATED, QWEN3, SMOLLM2

pytestmark = needs_compiler

CASES: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "demo": (CHATML, lambda folder: tokenizer_of_gguf(DEMO, folder)),
    "llama-2": (SYSTEM_IN_QUESTION, llama2_like),
    "llama-2, space before the first text alone": (
        SYSTEM_IN_QUESTION,
        lambda folder: llama2_like(folder, legacy=False),
    ),
    "reasoning, with marks in the vocabulary": (QWEN3, by_pattern("qwen2")),
    "reasoning, with marks that are text": (QWEN3, lambda folder: tokenizer_of_gguf(DEMO, folder)),
    "a date": (DATED, by_pattern("llama3")),
    "stripped": (TRIMMED, by_pattern("qwen2")),
    "no system prompt": (NO_SYSTEM, llama2_like),
    "always opened": (ALWAYS_OPENED, by_pattern("llama3")),
}
BOS = {"llama-2": "<s>", "no system prompt": "<s>"}


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made.close()


@pytest.fixture(scope="module", params=[*CASES, "smollm2"])
def case(
    request: pytest.FixtureRequest, renderer: Renderer, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Template, HfTokenizer, PhoneChat]:
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "smollm2":
        source = SMOLLM2
        tokenizer_of_gguf(request.getfixturevalue("smollm2"), folder)
    else:
        source, make = CASES[request.param]
        make(folder)
    tokenizer = HfTokenizer(folder)
    template = Template(renderer, source, bos=BOS.get(request.param, ""))
    chat = PhoneChat(PhoneTokenizer(folder / "tokenizer.json"), chat_pieces(template, tokenizer, NO_THINKING))
    return template, tokenizer, chat


def with_look_alikes(tokenizer: HfTokenizer) -> Iterator[list[Message]]:
    """Conversations that contain control tokens and words of the vocabulary, whole and in parts."""
    words = sorted({*tokenizer.control_texts, "<think>", "[i]", "<div>", "{x}", "[INST]"})
    contents = iter(list(texts(800, 3, words)))
    for index in range(100):
        lead = [Message("system", next(contents))] if index % 2 else []
        turns = [Message(role, next(contents)) for role in ("user", "assistant", "user")]
        yield [*lead, *turns[2 * (index % 3 == 0) :]]


def test_every_conversation_has_the_same_tokens(
    case: tuple[Template, HfTokenizer, PhoneChat], renderer: Renderer
) -> None:
    template, tokenizer, chat = case
    renderer.compile(template.source)
    fresh = PromptBuilder(template, tokenizer)
    n_checked = 0
    for messages in (*conversations(), *with_look_alikes(tokenizer)):
        for thinking in (True, False):
            now = time.time()
            prompt = fresh.fresh().build(messages, {"enable_thinking": True} if thinking else NO_THINKING)
            text = chat.text(messages, thinking=thinking, now=now)
            assert chat.tokens() == list(prompt.tokens), (messages, text)
            n_checked += 1
    assert n_checked == 600


def test_messages_end_at_the_same_bytes(case: tuple[Template, HfTokenizer, PhoneChat], renderer: Renderer) -> None:
    template, _, chat = case
    renderer.compile(template.source)
    talk = [Message("user", "öne"), Message("assistant", " twö"), Message("user", "three"), Message("assistant", "x")]
    for messages in ([*talk, Message("user", "y")], talk[:1], [Message("system", "rüle"), *talk[:3]]):
        text = chat.text(messages, now=time.time())
        *ends, first, last = chat.places()
        refuses = messages[0].role == "system" and "no system" in template.source
        if refuses:
            assert text.encode()[:first].endswith("rüle\n\n".encode())
            continue
        written = ConversationWriter(template).write(messages, {"enable_thinking": True})
        assert written.text == text
        assert [end if end < 0 else len(text[:end].encode()) for end in written.ends] == ends
        assert text.encode()[first:].decode().startswith(("<", "[", "öne"))
        assert text.encode()[last:].decode() == text[written.ends[-1] :]


def test_an_answer_keeps_the_tokens_that_were_emitted(
    case: tuple[Template, HfTokenizer, PhoneChat], renderer: Renderer
) -> None:
    """Twenty conversations of five turns, with answers that their text would encode differently; one is edited."""
    template, tokenizer, chat = case
    renderer.compile(template.source)
    words = sorted({*tokenizer.control_texts, "<think>", "[i]"})
    contents = iter([text for text in texts(400, 5, words) if text.strip() and "\0" not in text])
    n_kept = 0
    for index in range(20):
        builder = PromptBuilder(template, tokenizer)
        chat.forget()
        messages = [Message("system", next(contents))] if index % 2 else []
        for turn in range(5):
            if turn == 3:
                del messages[-2:]  # the last turn is asked in other words
            messages.append(Message("user", next(contents)))
            now = time.time()
            expected = builder.build(messages, {"enable_thinking": True})
            found = chat.prompt(messages, now=now)
            assert list(found.tokens) == list(expected.tokens)
            assert (found.n_system, found.starts) == (expected.n_system, expected.starts)
            answer = next(contents)
            tokens = [token for character in answer for token in tokenizer.encode(character, special=False)]
            n_kept += tokens != tokenizer.encode(answer, special=False)
            builder.answered(tokens, answer)
            chat.answered(tokens, answer)
            messages.append(Message("assistant", answer))
    assert n_kept > 50


def test_turns_that_do_not_alternate_are_refused(case: tuple[Template, HfTokenizer, PhoneChat]) -> None:
    _, _, chat = case
    user, assistant = Message("user", "x"), Message("assistant", "x")
    for messages in ([], [Message("system", "x")], [assistant], [user, user], [user, assistant], [user, assistant] * 2):
        with pytest.raises(Refused, match="must alternate, and a question come last"):
            chat.text(messages)
