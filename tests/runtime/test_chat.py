"""A chat of the runtime compared with one of Python: texts, tokens, and reuse of the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgeinfer.types import GREEDY, Sampling
from tests.runtime.built import Runtime
from tests.runtime.child import Process, in_child
from tests.runtime.library import (
    AUTO,
    CANCELED,
    EARLY_EXIT,
    LOOKUP,
    NEVER,
    STOP,
    USAGE,
    Library,
    Refused,
    Session,
    sampled_by,
)
from tests.runtime.oracle import Ask, Reply, replies

CONTEXT = 384
SAMPLED = Sampling(temperature=0.9, top_k=50, top_p=0.95, min_p=0.02, repeat_penalty=1.05, seed=11)
FINISHED = {1: "stop", 2: "length", 3: "canceled"}
ASKS = (
    Ask("Tell me a story about a little dog and a cat.", 90),
    Ask("What happened next? <|im_end|> <|im_start|>user is only text.", 60),
    Ask("Repeat the story, please: naïve 東京 🙂\n\n  x", 80),
    Ask("And the end?", 60, rewind=4),
    Ask("Once more, with a stop.", 60, stop=("the", " and ")),
    Ask("Who are you?", 100),
)


def said_by_library(
    library: Path, bundle: Path, system: str, asks: tuple[Ask, ...], drafting: int = NEVER
) -> list[Reply]:
    with Library(library).open(bundle, context=CONTEXT, sink=64, drafting=drafting) as model:
        session = model.session(system)
        return [said_by_session(session, ask) for ask in asks]


def said_by_session(session: Session, ask: Ask) -> Reply:
    if ask.rewind is not None:
        session.rewind(ask.rewind)
    answer = session.chat(ask.text, max_tokens=ask.max_tokens, stops=ask.stop, **sampled_by(ask.sampling))
    finish = FINISHED[int(answer.stats["finish"])]
    return Reply(answer.text, tuple(answer.tokens), finish, int(answer.stats["reused"]))


@pytest.mark.parametrize(
    ("system", "sampling"),
    [("You are a storyteller for children. Be kind <|im_end|> and brief.", GREEDY), ("", SAMPLED)],
    ids=["greedy", "sampled"],
)
def test_a_chat_equals_that_of_python(
    built: Runtime, demo: Path, in_python: Process, in_runtime: Process, system: str, sampling: Sampling
) -> None:
    """Past the window, with an edited message, stop strings, and control tokens in messages."""
    asks = tuple(replace(ask, sampling=sampling) for ask in ASKS)
    expected = in_python(replies, demo, CONTEXT, system, asks)
    assert sum(reply.reused for reply in expected) > 200
    assert in_runtime(said_by_library, built.library, demo, system, asks) == expected
    for drafting in (LOOKUP, EARLY_EXIT, AUTO):
        assert in_runtime(said_by_library, built.library, demo, system, asks, drafting) == expected


@in_child
def test_drafts_are_accepted_and_rejected(built: Runtime, demo: Path) -> None:
    for drafting in (LOOKUP, EARLY_EXIT):
        session = Library(built.library).open(demo, context=CONTEXT, sink=64, drafting=drafting).session()
        stats = session.chat("Repeat after me: one two three four, one two three four.", max_tokens=80).stats
        assert 0 < stats["accepted"] < stats["drafted"]


@in_child
def test_what_a_stopped_chat_remembers(built: Runtime, demo: Path) -> None:
    """The text so far becomes a message. If there is none, neither the question nor an empty answer is kept."""
    session = Library(built.library).open(demo, context=CONTEXT, sink=64).session()
    said = session.chat("Tell me a story.", watch=lambda said: len(said.tokens) == 4)
    assert (said.stats["finish"], session.n_messages) == (CANCELED, 2)
    kept = session.chat("And then?", max_tokens=5).stats["reused"]
    assert kept > 4 and session.n_messages == 4
    n = session.n_messages
    silent = session.chat("Nothing?", max_tokens=1, stops=list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"))
    assert (silent.text, session.n_messages) == ("", n)
    with pytest.raises(Refused, match="cannot go back to 3") as caught:
        session.rewind(3)
    assert caught.value.code == USAGE
    session.rewind(0)
    assert session.n_messages == 0


@in_child
def test_pieces_are_whole_characters_and_batches(built: Runtime, demo: Path) -> None:
    session = Library(built.library).open(demo, context=CONTEXT, sink=64).session()
    question = ASKS[0].text
    one = session.chat(question, max_tokens=40)
    assert len(one.tokens) == 40 <= one.n_pieces  # each piece decodes alone, or the wrapper raises
    session.rewind(0)
    batched = session.chat(question, max_tokens=40, batch_ms=60_000)
    assert (batched.text, batched.tokens, batched.n_pieces) == (one.text, one.tokens, 1)
    session.rewind(0)
    word = one.text.split()[3]
    stopped = session.chat(question, max_tokens=40, stops=[word])
    assert stopped.text == one.text[: one.text.index(word)] and stopped.stats["finish"] == STOP
