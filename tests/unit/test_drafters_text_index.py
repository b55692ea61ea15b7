"""The text index: longest match and forks against a brute-force search, and the work per token."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.decode.drafters.text_index import TextIndex

SHARE_A_SLOT = (0, 1 << 15)
TEXTS = st.lists(st.sampled_from([*SHARE_A_SLOT, 1, 2]), min_size=1, max_size=13)


def indexed(text: Sequence[int]) -> TextIndex:
    index = TextIndex()
    for token in text:
        index.add(token)
    return index


def forks_by_hand(text: list[int]) -> list[int]:
    """For each position: whether other tokens followed the same last token (1), and the same last two (2)."""

    def followers(ending: list[int]) -> set[int]:
        n = len(ending)
        return {text[at] for at in range(n, len(text)) if text[at - n : at] == ending}

    found = [0]
    for place in range(1, len(text) + 1):
        fork = 1 if len(followers(text[place - 1 : place])) > 1 else 0
        found.append(2 if place > 1 and len(followers(text[place - 2 : place])) > 1 else fork)
    return found


@settings(max_examples=500, deadline=None)
@given(TEXTS)
def test_forks_equal_those_of_a_search_of_the_whole_text(text: list[int]) -> None:
    assert list(indexed(text).forks) == forks_by_hand(text)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_the_longest_match_equals_that_of_a_search_of_the_whole_text(text: list[int]) -> None:
    n = len(text)
    lengths = {end: next((k for k in range(end) if text[end - 1 - k] != text[n - 1 - k]), end) for end in range(1, n)}
    found = indexed(text).longest_match()
    best = max(lengths.values(), default=0)
    assert (found.length if found else 0) == best
    if found:
        assert lengths[found.source] == best


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(1, 20))
def test_predicted_tokens_have_the_forks_of_their_positions(text: list[int], limit: int) -> None:
    """Past the end, the text between the match and the end repeats, and so do its forks."""
    index = indexed(text)
    match = index.longest_match()
    if match is None:
        return
    known = forks_by_hand(text)[match.source : len(text)]
    forks = index.forks_after(match, limit)
    assert len(forks) == len(index.after(match, limit)) == limit
    for ahead in range(1, limit):
        assert forks[ahead] == known[ahead % len(known)] or ahead % len(known) == 0
    assert forks[0] == (known[0] if match.length > 1 else min(known[0], 1))


@pytest.mark.parametrize("n", [1000, 8000])
def test_the_work_per_token_does_not_grow_with_the_text(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps are counted, not timed."""
    compared: list[int] = []
    common = TextIndex._common

    def counted(index: TextIndex, place: int) -> int:
        compared.append(place)
        return common(index, place)

    monkeypatch.setattr(TextIndex, "_common", counted)
    index = indexed([at % 7 if at % 3 else at for at in range(n)])
    for token in (1, 2, 3, 99999, 4):
        index.add(token)
        index.longest_match()
    assert 5 <= len(compared) <= 5 * 12
