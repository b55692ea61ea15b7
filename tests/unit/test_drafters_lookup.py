"""Prompt lookup: matches against a brute-force search, changes of the conversation, and learning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.decode.drafters import lookup as module
from edgeinfer.decode.drafters.hit_rates import HitRates
from edgeinfer.decode.drafters.lookup import Lookup, Match
from edgeinfer.protocols import Round

ROUND: Round = None  # type: ignore[assignment]  # lookup never asks the model


def lookup_in(context: list[int]) -> Lookup:
    lookup = Lookup()
    lookup.reset(context)
    return lookup


def drafts(context: list[int], limit: int = 4) -> list[int]:
    return list(lookup_in(context).propose(ROUND, limit))  # type: ignore[arg-type]


def test_the_tokens_after_the_earlier_match_are_proposed() -> None:
    assert drafts([5, 6, 7, 8, 9, 1, 5, 6, 7]) == [8, 9, 1, 5]


def test_the_longest_match_wins_over_a_newer_one() -> None:
    #               1 2 3 -> 40     2 3 -> 50        1 2 3 again
    context = [1, 2, 3, 40, 41, 9, 2, 3, 50, 51, 1, 2, 3]
    assert drafts(context, 2) == [40, 41]


def test_the_newest_of_equally_long_matches_wins() -> None:
    assert drafts([1, 2, 40, 9, 1, 2, 50, 8, 1, 2], 1) == [50]


def test_a_repetition_at_the_end_continues() -> None:
    assert drafts([9, 1, 2, 3, 1, 2, 3, 1, 2], 6) == [3, 1, 2, 3, 1, 2]
    assert drafts([4, 7, 7, 7], 3) == [7, 7, 7]


def test_without_a_match_nothing_is_proposed() -> None:
    assert drafts([1, 2, 3, 4]) == []
    assert drafts([1]) == []
    assert drafts([5, 6, 7, 5, 6], 0) == []


def test_one_equal_token_is_enough_for_a_match() -> None:
    assert drafts([1, 2, 3, 1]) == [2, 3, 1, 2]


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
def test_matches_equal_those_of_a_brute_force_search(context: list[int]) -> None:
    whole, stepped = lookup_in(context), lookup_in(context[:1])
    for token in context[1:]:
        stepped.extend([token])
        stepped.match()
    longest = longest_by_hand(context)
    for found in (whole.match(), stepped.match()):
        assert (found is not None) == (longest > 0)
        if not found:
            continue
        assert found.length == longest
        newest = context[len(context) - found.length :]
        assert context[found.source - found.length : found.source] == newest


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["grow", "cut", "new", "edit"]), st.lists(st.integers(0, 5), min_size=1, max_size=6)),
        max_size=12,
    )
)
def test_matches_are_correct_after_any_change_of_the_conversation(changes: list[tuple[str, list[int]]]) -> None:
    """Tokens are emitted, then the prompt is cut, edited or replaced. Some tokens may not be indexed yet."""
    lookup, context = Lookup(), [1, 2, 3]
    lookup.reset(context)
    for how, tokens in changes:
        if how == "grow":
            context = context + tokens
            lookup.extend(tokens)
        else:
            kept = {"cut": context[: max(1, len(context) - len(tokens))], "new": [], "edit": context[:1]}[how]
            context = [*kept, *tokens] + (context if how == "new" else [])
            lookup.extend([9, 9])  # from an answer whose last round asked for no match
            lookup.reset(context)
        found = lookup.match()
        assert (found is not None) == (longest_by_hand(context) > 0)
        if found:
            newest = context[len(context) - found.length :]
            assert context[found.source - found.length : found.source] == newest
            assert len(lookup.tokens(found, 5)) == 5


def test_a_draft_where_the_text_forks_is_less_likely() -> None:
    """8 9 was followed by two different tokens, 1 2 by one."""
    lookup = lookup_in([8, 9, 3, 8, 9, 4, 1, 2, 5, 1, 2])
    sure = lookup.match()
    assert sure == Match(8, 2)
    forked = lookup_in([8, 9, 3, 8, 9, 4, 1, 2, 5, 8, 9])
    at_fork = forked.match()
    assert at_fork is not None
    assert forked.acceptance(at_fork, 1)[0] < lookup.acceptance(sure, 1)[0]


def test_expected_acceptance_follows_the_emitted_tokens() -> None:
    """Two-token matches that always fail are expected to fail; those that always succeed, to succeed."""
    wrong, right = lookup_in([1, 2]), lookup_in([1, 2])
    for index in range(100):
        wrong.extend([1000 + index, 1, 2])
        right.extend([7, 1, 2])
    hopeless, sure = wrong.match(), right.match()
    assert hopeless is not None
    assert sure is not None
    assert wrong.acceptance(hopeless, 1)[0] < 0.15
    assert min(right.acceptance(sure, 15)) > 0.95


@pytest.mark.parametrize("n", [1, 40])
def test_a_prompt_teaches_nothing(n: int) -> None:
    """Neither the first prompt nor a later message, short or long. An answer with the same tokens does."""
    first = [1, 2, 3, 9, 1, 2]
    lookup = lookup_in(first)
    before = lookup.rates.acceptance(2, bytes(9))
    said = first + [3, 9, 1, 2] * n
    lookup.reset(said)
    lookup.reset([*said, 3, 9, 1, 2])
    lookup.match()
    assert lookup.rates.acceptance(2, bytes(9)) == before
    lookup.extend([3, 9, 1, 2])
    lookup.match()
    assert lookup.rates.acceptance(2, bytes(9)) != before


def test_learning_does_not_depend_on_the_object_that_holds_the_context() -> None:
    """One list that grows and is reused, or a new list each time: only `reset` and `extend` count."""
    reused, fresh = Lookup(), Lookup()
    context = [1, 2]
    reused.reset(context)
    fresh.reset([1, 2])
    for _ in range(20):
        context += [7, 1, 2]
        for lookup in (reused, fresh):
            lookup.extend([7, 1, 2])
            lookup.match()
    reused.reset(context)
    fresh.reset(list(context))
    assert reused.rates.acceptance(2, bytes(3)) == fresh.rates.acceptance(2, bytes(3))
    assert reused.match() == fresh.match()


def repeating(n: int) -> Lookup:
    """A lookup after `n` repetitions of 1 2 7."""
    lookup = lookup_in([1, 2])
    for _ in range(n):
        lookup.extend([7, 1, 2])
        lookup.match()
    return lookup


def test_an_edited_past_is_the_same_conversation() -> None:
    lookup, said = repeating(40), [1, 2, *[7, 1, 2] * 40]
    learned = lookup.rates.acceptance(2, bytes(3))
    lookup.reset([*said[:-5], 4, 4])
    assert lookup.rates.acceptance(2, bytes(3)) == learned
    lookup.reset([5, *said])
    assert lookup.rates.acceptance(2, bytes(3)) < learned


def test_a_new_conversation_keeps_little_of_what_was_learned() -> None:
    first = HitRates().acceptance(2, bytes(1))[0]
    lookup, said = repeating(6), [1, 2, *[7, 1, 2] * 6]
    learned = lookup.rates.acceptance(2, bytes(1))[0]
    lookup.reset([*said, 7])  # the same conversation, a turn later
    assert lookup.rates.acceptance(2, bytes(1))[0] == pytest.approx(learned, abs=0.01)
    lookup.reset([8, 9])
    assert first < lookup.rates.acceptance(2, bytes(1))[0] < (first + learned) / 2


@pytest.mark.parametrize("how", ["extend", "reset"])
@pytest.mark.parametrize("step", [1, 7, 200])
def test_only_the_newest_part_of_a_long_conversation_is_indexed(
    step: int, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A conversation may grow forever, the index may not. Matches stay correct."""
    monkeypatch.setattr(module, "MAX_INDEXED", 40)
    lookup, context = lookup_in([0]), [0]
    text = [at * at % 11 for at in range(400)]
    found = 0
    for at in range(0, len(text), step):
        context += text[at : at + step]
        if how == "extend":
            lookup.extend(text[at : at + step])
        else:
            lookup.reset(context)
        match = lookup.match()
        indexed = list(lookup._text.tokens)
        assert len(indexed) <= 40
        assert indexed == context[len(context) - len(indexed) :]
        assert lookup._first == len(context) - len(indexed)
        if match:
            found += 1
            newest = context[len(context) - match.length :]
            assert indexed[match.source - match.length : match.source] == newest
    assert found > len(text) / step / 2
