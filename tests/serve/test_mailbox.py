"""The mailbox: events from the engine's thread to the reader of an answer."""

from __future__ import annotations

import asyncio

import pytest

from edgeinfer.chat.thinking import Segment
from edgeinfer.decode.stats import AnswerStats
from edgeinfer.serve import mailbox
from edgeinfer.serve.engine.job import Admitted, Ended, TokenLogprob, Written
from edgeinfer.serve.mailbox import Letter, Mailbox, joined
from edgeinfer.types import ToolCall

A_MOMENT_S = 0.05
ENDED = Ended("stop", AnswerStats(), 3)


def said(text: str, *, thinking: bool = False) -> Written:
    return Written((Segment(text, thinking),))


def read(*rounds: list[Letter], frame_s: float, monkeypatch: pytest.MonkeyPatch) -> list[list[Letter] | None]:
    """What the reader gets after each round of events; None while it waits for the next frame."""
    monkeypatch.setattr(mailbox, "FRAME_S", frame_s)

    async def taken() -> list[list[Letter] | None]:
        box, found = Mailbox(asyncio.get_running_loop()), list[list[Letter] | None]()
        for letters in rounds:
            for index, event in letters:
                box.post(index, event)
            try:
                found.append(list(await asyncio.wait_for(box.take(), A_MOMENT_S)))
            except TimeoutError:
                found.append(None)
        return found

    return asyncio.run(taken())


ENDLESS_S = 1e9


def test_the_first_text_comes_at_once_and_the_next_in_another_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, one, two = (0, Admitted()), (0, said("a")), (0, said("b"))
    assert read([begun], [one], [two], frame_s=ENDLESS_S, monkeypatch=monkeypatch) == [[begun], [one], None]
    assert read([begun], [one], [two], frame_s=A_MOMENT_S / 5, monkeypatch=monkeypatch) == [[begun], [one], [two]]


def test_the_end_comes_at_once_with_the_text_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, end = (0, said("a")), (0, said("b")), (0, ENDED)
    assert read([one], [two], [end], frame_s=ENDLESS_S, monkeypatch=monkeypatch) == [[one], None, [two, end]]


def test_consecutive_texts_are_joined() -> None:
    letters: list[Letter] = [(0, said("a")), (0, said("b")), (0, said("c", thinking=True)), (0, said("d")), (0, ENDED)]
    parts = (Segment("ab", thinking=False), Segment("c", thinking=True), Segment("d", thinking=False))
    assert joined(letters) == [(0, Written(parts)), (0, ENDED)]


def test_texts_that_are_joined_have_the_later_number_of_tokens() -> None:
    one, two = Written((Segment("a", False),), n_tokens=3), Written((Segment("b", False),), n_tokens=7)
    assert joined([(0, one), (0, two)]) == [(0, Written((Segment("ab", False),), n_tokens=7))]


def test_answers_calls_and_log_probabilities_stay_apart() -> None:
    call = ToolCall("f", "{}")
    likely = Written((Segment("c", thinking=False),), (TokenLogprob(1, -0.5, ()),))
    letters: list[Letter] = [(0, said("a")), (1, said("b")), (0, likely), (0, said("d"))]
    assert joined(letters) == letters
    assert joined([(0, said("a")), (0, Written((call,))), (0, said("b"))]) == [
        (0, Written((Segment("a", thinking=False), call, Segment("b", thinking=False))))
    ]
