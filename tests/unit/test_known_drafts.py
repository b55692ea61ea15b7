"""Conversations that share a step divide its rows so that the step as a whole gains most."""

from __future__ import annotations

import pytest

from edgeinfer.decode.drafters.lookup import Lookup
from edgeinfer.decode.policy.known import expected_tokens, share_rows

SURE, UNSURE, NONE = [0.99] * 7, [0.3] * 7, list[float]()


def test_expected_tokens_of_a_round_by_hand() -> None:
    assert expected_tokens([0.5, 0.5, 0.5], 2) == 1 + 0.5 + 0.25
    assert expected_tokens([0.5], 2) == 1.0


def dear(rows: int) -> float:
    """Every row takes as long as the first, so drafts gain nothing."""
    return float(rows)


def cheap(rows: int) -> float:
    """A forward takes nearly the same time for any number of rows."""
    return 1.0 + 0.01 * rows


def in_tiles(rows: int) -> float:
    """Four rows take little more than one."""
    return -(-rows // 4) + 0.1 * rows


@pytest.mark.parametrize(
    ("acceptance", "forward_s", "depths"),
    [
        ([SURE, SURE], dear, [0, 0]),
        ([SURE, SURE], cheap, [7, 7]),
        ([UNSURE, UNSURE], cheap, [3, 3]),
        ([NONE, NONE], cheap, [0, 0]),
        ([SURE, NONE], cheap, [7, 0]),
        ([SURE[:3], NONE], cheap, [3, 0]),
        ([SURE], in_tiles, [3]),
        ([UNSURE], in_tiles, [1]),
    ],
)
def test_drafts_go_to_the_conversation_that_gains_most(acceptance, forward_s, depths) -> None:  # type: ignore[no-untyped-def]
    assert share_rows(acceptance, forward_s) == depths


def test_a_draft_must_pay_for_the_second_forward_that_it_causes() -> None:
    assert share_rows([[0.9], *[NONE] * 7], lambda rows: 5.0 + rows) == [0] * 8


def test_lookup_knows_its_drafts_before_the_round() -> None:
    lookup = Lookup()
    lookup.reset([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5])
    known = lookup.known(3)
    assert known is not None and list(known.tokens) == [6, 7, 8][: len(known.tokens)] and known.tokens
    assert len(known.acceptance) == len(known.tokens) and known.drafter == "lookup"
    assert known.first(1).tokens == known.tokens[:1]
    lookup.reset([1, 2, 3])
    assert lookup.known(3) is None
