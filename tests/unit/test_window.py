"""WindowPolicy against sets written out: what a query sees, and what a ring of `slots` places holds."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.errors import UsageError
from edgeinfer.window import WindowPolicy

SMALL = WindowPolicy(window=8, sink=2, block=2, limit=20)


@st.composite
def policies(draw: st.DrawFn) -> WindowPolicy:
    block = draw(st.integers(1, 5))
    window = block * draw(st.integers(4, 7))
    sink = draw(st.integers(0, 9))
    return WindowPolicy(window, sink, block, draw(st.integers(sink + window, sink + 4 * window)))


def seen_by(policy: WindowPolicy, query: int) -> set[int]:
    """The visible set in words: sinks, the query's block, and as many blocks before it as fit."""
    own_block = range(query - query % policy.block, query + 1)
    earlier = [
        range(start, start + policy.block)
        for start in range(own_block.start - (policy.window - policy.block), own_block.start, policy.block)
    ]
    recent = {key for keys in (*earlier, own_block) for key in keys if key >= 0}
    return recent | {key for key in range(policy.sink) if key <= query}


# By hand: window 8 in blocks of 2, sink 2. A query sees its own block and the three blocks before it.
@pytest.mark.parametrize(
    ("query", "visible"),
    [
        (0, {0}),
        (1, {0, 1}),
        (5, {0, 1, 2, 3, 4, 5}),
        (7, {0, 1, 2, 3, 4, 5, 6, 7}),  # the window is full
        (8, {0, 1, 2, 3, 4, 5, 6, 7, 8}),  # block {0, 1} leaves the window and stays as sink
        (9, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}),
        (10, {0, 1, 4, 5, 6, 7, 8, 9, 10}),  # block {2, 3} is evicted
        (11, {0, 1, 4, 5, 6, 7, 8, 9, 10, 11}),
        (12, {0, 1, 6, 7, 8, 9, 10, 11, 12}),
    ],
)
def test_visible_by_hand(query: int, visible: set[int]) -> None:
    assert {key for key in range(30) if SMALL.visible(query, key)} == visible


def test_slots_by_hand() -> None:
    # sinks 0 and 1 in places 0 and 1, then a ring of eight: position p in 2 + p % 8
    assert [SMALL.slot(p) for p in range(14)] == [0, 1, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5, 6, 7]
    assert SMALL.slots == 10


def test_room_by_hand() -> None:
    # up to the window, then to the end of the block, and never past the limit of 20
    assert [SMALL.room(length) for length in range(21)] == [8, 7, 6, 5, 4, 3, 2, 1, *([2, 1] * 6), 0]


def test_evicted_by_hand() -> None:
    assert [SMALL.evicted(length) for length in (0, 8, 9, 10, 11, 12)] == [
        *[range(2, 2)] * 3,
        *[range(2, 4)] * 2,
        range(2, 6),
    ]


def test_rewind_by_hand() -> None:
    assert SMALL.can_rewind(9, 0) and SMALL.can_rewind(9, 3)  # nothing is evicted yet
    assert SMALL.can_rewind(11, 10)  # inside the block
    assert not SMALL.can_rewind(11, 9)  # 9 would see keys 2 and 3
    assert SMALL.can_rewind(11, 0)  # clearing
    assert not SMALL.can_rewind(5, 6)


@settings(max_examples=30)
@given(policies())
def test_visible_is_the_brute_force_set(policy: WindowPolicy) -> None:
    for query in range(policy.limit):
        assert {key for key in range(policy.limit) if policy.visible(query, key)} == seen_by(policy, query)


@given(policies())
def test_a_full_window_sees_between_window_less_block_and_window(policy: WindowPolicy) -> None:
    for query in range(policy.window, policy.limit):
        recent = query - policy.oldest(query) + 1
        assert policy.window - policy.block + 1 <= recent <= policy.window


@settings(max_examples=60)
@given(policies(), st.data())
def test_a_ring_of_slots_holds_what_every_query_sees(policy: WindowPolicy, data: st.DataObject) -> None:
    """Rounds of any allowed size, of which any part is kept, and allowed rewinds never overwrite a live slot."""
    ring: dict[int, int] = {}  # slot -> position
    length = wrapped = 0
    for _ in range(40):
        if not policy.room(length):
            break
        rows = data.draw(st.integers(1, policy.room(length)))
        for position in range(length, length + rows):
            wrapped += policy.slot(position) in ring
            ring[policy.slot(position)] = position
        assert max(ring) < policy.slots
        for query in range(length, length + rows):
            for key in seen_by(policy, query):
                assert ring[policy.slot(key)] == key
        length += data.draw(st.integers(0, rows))
        target = data.draw(st.integers(0, length))
        if data.draw(st.booleans()) and policy.can_rewind(length, target):
            length = target


@settings(max_examples=30)
@given(policies())
def test_a_rewind_that_is_allowed_finds_its_keys(policy: WindowPolicy) -> None:
    for length in range(policy.limit + 1):
        for target in range(1, length + 1):
            needed = {key for key in seen_by(policy, target) if key < target}
            lost = needed & set(policy.evicted(length))
            allowed = policy.can_rewind(length, target)
            assert not (allowed and lost)
            # refused without a loss only where the target lies before the first eviction
            assert allowed or lost or target <= policy.evicted(length).start


@settings(max_examples=20)
@given(policies())
def test_evicted_is_what_no_later_query_sees(policy: WindowPolicy) -> None:
    for length in range(policy.limit):
        seen = set().union(*(seen_by(policy, query) for query in range(length, policy.limit)))
        assert set(policy.evicted(length)) == set(range(length)) - seen


@given(policies())
def test_room_ends_at_the_window_at_blocks_and_at_the_limit(policy: WindowPolicy) -> None:
    for length in range(policy.limit + 1):
        room = policy.room(length)
        assert 0 <= room <= policy.limit - length
        assert (room == 0) == (length == policy.limit)
        crossed = [p for p in range(length + 1, length + room) if p >= policy.window and p % policy.block == 0]
        assert crossed == []


@pytest.mark.parametrize(
    ("window", "sink", "block", "limit", "words"),
    [
        (7, 0, 2, 20, "multiple of block"),
        (6, 0, 2, 20, "4 blocks"),
        (8, 13, 2, 20, "20 positions"),
        (8, -1, 2, 20, "sink -1"),
        (8, 0, 0, 20, "block 0"),
    ],
)
def test_impossible_policies_are_refused(window: int, sink: int, block: int, limit: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        WindowPolicy(window, sink, block, limit)
