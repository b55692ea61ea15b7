"""The tokens that a cache holds, by hand. Window 16 in blocks of 4, sink 4, limit 32."""

from __future__ import annotations

import pytest

from edgeinfer.decode.timeline import NO_GAP, Reuse, Timeline, anchor, reuse
from edgeinfer.types import Prompt, common_prefix, compact
from edgeinfer.window import WindowPolicy

POLICY = WindowPolicy(window=16, sink=4, block=4, limit=32)
GAP = Timeline(compact(range(40)), range(3, 24))  # 40 tokens, of which 3 and 16 are in the cache


def test_positions_and_indices_around_a_gap() -> None:
    assert [GAP.position(index) for index in (0, 3, 4, 23, 24, 25, 40)] == [0, 3, 3, 3, 3, 4, 19]
    assert [GAP.index(length) for length in (0, 2, 3, 4, 19)] == [0, 2, 3, 25, 40]


@pytest.mark.parametrize(("length", "tokens", "gap"), [(19, 40, range(3, 24)), (10, 31, range(3, 24)), (3, 3, NO_GAP)])
def test_settle_drops_tokens_that_the_cache_does_not_hold(length: int, tokens: int, gap: range) -> None:
    timeline = Timeline(compact(range(40)), range(3, 24))
    timeline.settle(length)
    assert (list(timeline.tokens), timeline.gap) == (list(range(tokens)), gap)


def test_settle_drops_the_pending_token() -> None:
    timeline = Timeline(compact([5, 6, 7]))
    timeline.settle(2)
    assert list(timeline.tokens) == [5, 6]


def prompt(n: int, *changed: int, starts: tuple[int, ...] = ()) -> Prompt:
    return Prompt(tuple(100 if index in changed else index for index in range(n)), 3, starts)


STARTS = (3, 10, 30, 40, 46)


@pytest.mark.parametrize(
    ("asked", "expected", "runs"),
    [
        (prompt(49), Reuse(25, range(3, 24), 46), [46, 47, 48]),  # the conversation continues
        (prompt(46), Reuse(24, range(3, 24), 45), [45]),  # the last token is run for its row
        # token 41 was at position 20, whose keys are evicted at 25; the cut at 49 - 8 moves to the message at 40
        (prompt(49, 41), Reuse(0, range(3, 40), 41), [0, 1, 2, *range(40, 49)]),
        # back into the gap, or so close after it that a new anchor would see more
        (prompt(20, 12), Reuse(0, range(3, 10), 12), [0, 1, 2, *range(10, 20)]),
        (prompt(26), Reuse(0, range(3, 16), 25), [0, 1, 2, *range(16, 26)]),
        (prompt(12, 10), Reuse(0, NO_GAP, 10), list(range(12))),  # all of it fits the window
    ],
)
def test_how_much_is_reused_after_reanchoring(asked: Prompt, expected: Reuse, runs: list[int]) -> None:
    told = Timeline(compact(range(46)), range(3, 24))  # 46 tokens at 25 positions; positions 4 to 11 are evicted
    starts = {20: (3, 10, 18), 26: (3, 16, 24), 12: (3, 9)}.get(len(asked.tokens), STARTS)
    got = reuse(told, 25, Prompt(asked.tokens, 3, starts), POLICY)
    assert got == expected
    assert got.runs(len(asked.tokens)) == runs


def test_another_conversation_is_run_from_the_start() -> None:
    """It shares less than one message with the old conversation, so nothing of it had been dropped."""
    told = Timeline(compact(range(30)))
    other = Prompt((0, 1, 2, 3, *range(100, 124)), 3, (3, 12, 27))
    assert reuse(told, 30, other, POLICY) == Reuse(0, NO_GAP, 4)


def test_an_anchor_keeps_half_a_window() -> None:
    assert anchor(prompt(40), 40, POLICY) == range(3, 32)
    assert anchor(prompt(10), 10, POLICY) == NO_GAP  # the whole is no more than half a window and the system prompt


def test_common_prefix_by_hand() -> None:
    assert [common_prefix(a, b) for a, b in (([], [1]), ([1, 2], [1, 3]), ([1, 2], [1, 2, 3]))] == [0, 1, 2]
