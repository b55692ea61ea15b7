"""Which block is evicted first, compared with a walk of the tree."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given, settings

from edgeinfer.serve.store.eviction import LeafLru


def name(path: tuple[int, ...]) -> bytes:
    return b"/" + b"/".join(str(step).encode() for step in path)


def chain_of(path: tuple[int, ...]) -> list[bytes]:
    return [name(path[:depth]) for depth in range(1, len(path) + 1)]


PATHS = st.lists(st.integers(0, 2), min_size=1, max_size=5).map(tuple)
USES = st.lists(st.tuples(st.booleans(), PATHS, st.integers(1, 9)), max_size=60)


@given(uses=USES, budget=st.integers(10, 60))
@settings(max_examples=300, deadline=None)
def test_only_leaves_are_evicted_and_the_budget_holds(
    uses: list[tuple[bool, tuple[int, ...], int]], budget: int
) -> None:
    lru, here = LeafLru(budget), dict[bytes, int]()
    for again, path, n_bytes in uses:
        chain = chain_of(path)
        if again:
            present = [digest for digest in chain if digest in here]
            lru.found(present)
            continue
        for depth in range(1, len(chain) + 1):
            gone = lru.add(chain[:depth], here.get(chain[depth - 1], n_bytes))
            if gone is None:
                break
            for digest in gone:
                assert not any(other.startswith(digest + b"/") for other in here), "it has children"
                assert digest not in chain[:depth], "it is of the chain that is being added"
                del here[digest]
            here[chain[depth - 1]] = here.get(chain[depth - 1], n_bytes)
        assert lru.n_bytes == sum(here.values()) <= budget
        assert all(digest in lru for digest in here) and len(lru) == len(here)


def test_a_block_used_once_does_not_evict_one_used_again() -> None:
    lru = LeafLru(10)
    for chat in (b"a", b"a/1", b"a/1/2"):
        lru.add([digest for digest in (b"a", b"a/1", b"a/1/2") if digest <= chat], 1)
    lru.found([b"a", b"a/1", b"a/1/2"])
    for title in range(40):
        assert lru.add([b"title %d" % title], 1) is not None
    assert all(digest in lru for digest in (b"a", b"a/1", b"a/1/2"))


def test_a_chat_that_is_not_continued_is_evicted_eventually() -> None:
    lru = LeafLru(10)
    lru.add([b"old"], 3)
    lru.found([b"old"])
    for index in range(4):
        lru.add([b"%d" % index], 2)
        lru.found([b"%d" % index])
    assert b"old" not in lru


def test_a_block_larger_than_the_budget_changes_nothing() -> None:
    lru = LeafLru(10)
    lru.add([b"a"], 9)
    assert lru.add([b"b"], 11) is None
    assert lru.add([b"a", b"a/1"], 2) is None
    assert b"a" in lru and lru.n_bytes == 9
