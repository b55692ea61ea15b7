"""Prompt lookup: what it finds, against a search by hand; any change of the context; what it learns."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.decode.drafters import lookup as module
from edgeinfer.decode.drafters.hit_rates import HitRates
from edgeinfer.decode.drafters.lookup import Lookup, Match
from edgeinfer.protocols import Round

ROUND: Round = None  # type: ignore[assignment]  # lookup never asks the model


def drafts(context: list[int], limit: int = 4, **how: int) -> list[int]:
    return list(Lookup(**how).propose(ROUND, context, limit))  # type: ignore[arg-type]


def test_it_goes_on_as_the_earlier_text_went_on() -> None:
    assert drafts([5, 6, 7, 8, 9, 1, 5, 6, 7]) == [8, 9, 1, 5]


def test_the_longest_match_wins_over_a_newer_one() -> None:
    #               1 2 3 -> 40     2 3 -> 50        1 2 3 again
    context = [1, 2, 3, 40, 41, 9, 2, 3, 50, 51, 1, 2, 3]
    assert drafts(context, 2) == [40, 41]


def test_of_equally_long_matches_the_newest_wins() -> None:
    assert drafts([1, 2, 40, 9, 1, 2, 50, 8, 1, 2], 1) == [50]


def test_a_repetition_at_the_end_goes_on_with_itself() -> None:
    assert drafts([9, 1, 2, 3, 1, 2, 3, 1, 2], 6) == [3, 1, 2, 3, 1, 2]
    assert drafts([4, 7, 7, 7], 3) == [7, 7, 7]


def test_nothing_known_nothing_proposed() -> None:
    assert drafts([1, 2, 3, 4]) == []
    assert drafts([1]) == []
    assert drafts([5, 6, 7, 5, 6], 0) == []
    # one token alone is too little to go by, unless it is allowed
    assert drafts([1, 2, 3, 1]) == []
    assert drafts([1, 2, 3, 1], least_match=1) == [2, 3, 1, 2]


def longest_by_hand(context: list[int]) -> int:
    n = len(context)
    lengths = [0]
    for end in range(1, n):
        length = 0
        while length < end and context[end - 1 - length] == context[n - 1 - length]:
            length += 1
        lengths.append(length)
    return max(lengths)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=13))
def test_a_match_is_true_and_the_longest(context: list[int]) -> None:
    whole, stepped = Lookup(), Lookup()
    growing: list[int] = []
    for token in context:
        growing.append(token)
        found = stepped.match(growing)
    assert whole.match(list(context)) is not None if longest_by_hand(context) else found is None
    if found:
        assert found.length == longest_by_hand(context)
        newest = context[len(context) - found.length :]
        assert context[found.source - found.length : found.source] == newest


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["grow", "cut", "new", "edit"]), st.lists(st.integers(0, 5), min_size=1, max_size=6)),
        max_size=12,
    )
)
def test_any_change_of_the_context_leaves_it_right(changes: list[tuple[str, list[int]]]) -> None:
    """Re-anchored, cut, edited in place, another list: drafts are always those of a fresh index."""
    lookup, context = Lookup(), [1, 2, 3]
    for how, tokens in changes:
        if how == "grow":
            context.extend(tokens)
        elif how == "cut":
            del context[max(1, len(context) - len(tokens)) :]
            lookup.match(context)
            context = [*context, *tokens]
        elif how == "new":
            context = [*tokens, *context]
        else:
            context = [*context[:1], *tokens]
        found = lookup.match(context)
        if found:
            newest = context[len(context) - found.length :]
            assert context[found.source - found.length : found.source] == newest
            assert len(lookup.tokens(found, 5)) == 5


def test_a_draft_where_the_text_forks_is_less_likely() -> None:
    """8 9 went on in two ways, 1 2 in one."""
    lookup = Lookup()
    context = [8, 9, 3, 8, 9, 4, 1, 2, 5, 1, 2]
    sure = lookup.match(context)
    assert sure == Match(8, 2)
    forked = Lookup()
    at_fork = forked.match([8, 9, 3, 8, 9, 4, 1, 2, 5, 8, 9])
    assert at_fork is not None
    assert forked.chances(at_fork, 1)[0] < lookup.chances(sure, 1)[0]


def test_what_is_seen_moves_the_chances() -> None:
    """Two-token matches that are always wrong become hopeless; those that are always right become sure."""
    wrong, right = Lookup(), Lookup()
    bad, good = [1, 2], [1, 2]
    for index in range(100):
        bad += [1000 + index, 1, 2]
        wrong.match(bad)
        good += [7, 1, 2]
        right.match(good)
    hopeless, sure = wrong.match(bad), right.match(good)
    assert hopeless is not None
    assert sure is not None
    assert wrong.chances(hopeless, 1)[0] < 0.1
    assert min(right.chances(sure, 15)) > 0.95


@pytest.mark.parametrize("n", [1, 40])
def test_a_prompt_teaches_nothing(n: int) -> None:
    """Neither the first one nor what a person says later, long or short: it comes in another list."""
    lookup = Lookup()
    first = [1, 2, 3, 9, 1, 2]
    lookup.match(first)
    before = lookup.rates.chances(2, bytes(9))
    lookup.match([*first, *[3, 9, 1, 2] * n])
    assert lookup.rates.chances(2, bytes(9)) == before
    first += [3, 9, 1, 2] * n
    lookup.match([0])
    lookup.match(first)
    for token in (3, 9, 1, 2):  # but an answer does
        first.append(token)
        lookup.match(first)
    assert lookup.rates.chances(2, bytes(9)) != before


def test_an_edited_past_is_the_same_conversation() -> None:
    lookup = Lookup()
    said = [1, 2]
    for _ in range(40):
        said += [7, 1, 2]
        lookup.match(said)
    learned = lookup.rates.chances(2, bytes(3))
    lookup.match([*said[:-5], 4, 4])
    assert lookup.rates.chances(2, bytes(3)) == learned
    lookup.match([5, *said])
    assert lookup.rates.chances(2, bytes(3)) < learned


def test_another_conversation_begins_nearly_anew() -> None:
    lookup, first = Lookup(), HitRates().chances(2, bytes(1))[0]
    copied = [1, 2]
    lookup.match(copied)
    for _ in range(60):
        copied += [7, 1, 2]
        lookup.match(copied)
    learned = lookup.rates.chances(2, bytes(1))[0]
    lookup.match([*copied, 7])  # the same conversation, a turn later
    assert lookup.rates.chances(2, bytes(1))[0] == pytest.approx(learned, abs=0.01)
    lookup.match([8, 9])
    assert first < lookup.rates.chances(2, bytes(1))[0] < (first + learned) / 2


@pytest.mark.parametrize("step", [1, 7, 200])
def test_only_the_newest_part_of_a_long_context_is_indexed(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chat has no end, an index has; what it finds stays true."""
    monkeypatch.setattr(module, "_MOST", 40)
    lookup, context = Lookup(least_match=1), [0]
    text = [at * at % 11 for at in range(400)]
    found = 0
    for at in range(0, len(text), step):
        context += text[at : at + step]
        match = lookup.match(context)
        indexed = list(lookup._text.tokens)
        assert len(indexed) <= 40
        assert indexed == context[len(context) - len(indexed) :]
        if match:
            found += 1
            newest = context[len(context) - match.length :]
            assert indexed[match.source - match.length : match.source] == newest
    assert found > len(text) / step / 2
