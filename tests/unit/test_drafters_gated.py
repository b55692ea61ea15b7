"""Gated drafting on a scripted exit: it stops when unsure, verifies the drafts that pay, and learns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgeinfer.decode.drafters.early_exit import ExitSource
from edgeinfer.decode.drafters.gated import Gated, GatedEstimator
from edgeinfer.decode.policy.arms import Outcome
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.decode.policy.gate import BUCKET_EDGES, UNKNOWN, Gate, bucket, marginal_row_time, n_worth_verifying
from edgeinfer.decode.policy.offers import best_length
from tests.unit.simulated import FakeRow

CHEAP = RowCosts({1: 1.0, 8: 1.7}, {1: 0.7, 8: 1.4}, {1: 1.0, 8: 1.7}, 0.3)
STEPPED = RowCosts(
    {1: 1.0, 2: 1.6, 3: 2.2, 4: 2.2}, {1: 0.8, 2: 1.4, 3: 2.0, 4: 2.0}, {1: 1.0, 2: 1.6, 3: 2.2, 4: 2.2}, 0.1
)


class Script:
    """A round whose exit gives these tokens with these probabilities."""

    def __init__(self, said: Sequence[tuple[int, float]]) -> None:
        self.said = list(said)
        self.asked: list[int] = []

    def draft(self, token: int) -> FakeRow:
        self.asked.append(token)
        return FakeRow(*self.said[len(self.asked) - 1])


def gated(costs: RowCosts = CHEAP, max_rows: int = 8) -> Gated:
    drafter = Gated(ExitSource(), Costs(costs, max_rows), clock=lambda: 0.0)
    drafter.reset([5])
    return drafter


def propose(drafter: Gated, said: Sequence[tuple[int, float]], limit: int = 7) -> tuple[list[object], list[int]]:
    script = Script(said)
    return list(drafter.propose(script, limit)), script.asked  # type: ignore[arg-type]


def test_drafting_stops_at_an_uncertain_draft_which_is_dropped() -> None:
    drafts, asked = propose(gated(), [(11, 0.99), (12, 0.98), (13, 0.05), (14, 0.99)])
    assert drafts == [11, 12]
    assert asked == [5, 11, 12]  # each draft is the next one's input; the unsure one ends it


def test_no_more_drafts_than_the_limit() -> None:
    drafts, asked = propose(gated(), [(11, 0.99)] * 9, limit=3)
    assert drafts == [11, 11, 11]
    assert len(asked) == 3


def test_an_uncertain_first_draft_leaves_a_plain_round() -> None:
    assert propose(gated(), [(11, 0.02)])[0] == []


def test_a_tile_of_rows_is_filled_with_drafts() -> None:
    """Three rows take as long as four, so a third draft of medium confidence is kept. On its own it would not pay."""
    drafts, _ = propose(gated(STEPPED, 4), [(11, 0.99), (12, 0.99), (13, 0.75)], limit=3)
    assert drafts == [11, 12, 13]


def test_where_plain_rounds_gain_more_drafts_must_be_more_certain() -> None:
    said = [(11, 0.75), (12, 0.75), (13, 0.75)]
    calm, busy = gated(STEPPED, 4), gated(STEPPED, 4)
    busy.tokens_per_time = 1.8
    assert len(propose(busy, said, limit=3)[0]) < len(propose(calm, said, limit=3)[0])


def test_a_confident_exit_that_is_wrong_loses_its_rate() -> None:
    drafter = gated()
    for _ in range(30):
        propose(drafter, [(11, 0.99), (12, 0.99)], limit=2)
        drafter.extend([99])
    assert drafter.gate.acceptance(bucket(0.99)) < 0.2
    assert propose(drafter, [(11, 0.99), (12, 0.99)], limit=2)[0] == []


def test_an_unverified_draft_is_learned_from() -> None:
    """The target's own token shows that the unsure draft was right."""
    drafter = gated()
    unsure = bucket(0.05)
    before = drafter.gate.acceptance(unsure)
    assert propose(drafter, [(11, 0.99), (13, 0.05)])[0] == [11]
    drafter.extend([11, 13])
    assert drafter.gate.acceptance(unsure) > before


def test_after_a_rejected_draft_the_state_is_unknown() -> None:
    drafter = gated()
    propose(drafter, [(11, 0.99), (12, 0.99)], limit=2)
    drafter.extend([11, 12, 13])
    assert drafter.state == bucket(0.99)
    propose(drafter, [(11, 0.99), (12, 0.99)], limit=2)
    drafter.extend([11, 99])
    assert drafter.state == UNKNOWN


def test_nothing_is_learned_from_drafts_after_a_rejected_one() -> None:
    drafter = gated()
    propose(drafter, [(11, 0.99), (12, 0.96)], limit=2)
    before = drafter.gate.acceptance(bucket(0.96))
    drafter.extend([99])
    assert drafter.gate.acceptance(bucket(0.96)) == before


def test_buckets_by_hand() -> None:
    assert bucket(0.0) == 0
    assert bucket(0.15) == 1
    assert bucket(0.5) == 3
    assert bucket(1.0) == len(BUCKET_EDGES)


def test_best_length_by_hand() -> None:
    def cost(n: int) -> float:
        return 1.0 + 0.5 * n

    assert best_length([0.9, 0.9, 0.9], cost)[0] == 3  # 3.44 tokens for 2.5: 1.38 a round, 1.36 with two
    assert best_length([0.9, 0.1, 0.9], cost)[0] == 1
    assert best_length([0.4], cost) == (0, 1.0, 1.0)
    assert best_length([], cost) == (0, 1.0, 1.0)


def test_n_worth_verifying_by_hand() -> None:
    def cost(n: int) -> float:
        return 0.7 + 0.4 * n

    assert n_worth_verifying([0.9, 0.3], 1.0, cost) == 1
    assert n_worth_verifying([0.9, 0.9], 1.0, cost) == 2
    assert n_worth_verifying([0.3], 1.0, cost) == 0


def test_marginal_row_time_by_hand() -> None:
    costs = {1: 1.0, 2: 1.6, 3: 2.2, 4: 2.2, 5: 3.0}
    assert marginal_row_time(costs.__getitem__, 1, 4) == pytest.approx(0.4)  # three more rows for 1.2
    assert marginal_row_time(costs.__getitem__, 3, 4) == pytest.approx(0.0)
    assert marginal_row_time(costs.__getitem__, 4, 4) == pytest.approx(0.8)


def test_the_expected_gain_grows_with_the_confidence_of_the_last_draft() -> None:
    gate = Gate()
    for _ in range(50):
        gate.learn_transition(10, 10)
        gate.learn_transition(1, 1)
    assert gate.expected_gain(10, 0.3) > 0.6
    assert gate.expected_gain(1, 0.3) < 0.2


@pytest.mark.parametrize("agreement", [0.2, 0.5, 0.67, 0.9])
def test_the_gate_expects_a_known_agreement_of_the_first_draft(agreement: float) -> None:
    # if rows are free, the expected gain of a draft is its probability of being right
    assert Gate(agreement).expected_gain(UNKNOWN, 0.0) == pytest.approx(agreement, abs=1e-6)
    assert Gate().expected_gain(UNKNOWN, 0.0) == pytest.approx(0.684, abs=1e-3)


def test_the_first_offer_of_a_taught_draft_follows_from_its_file() -> None:
    costs = Costs(RowCosts({1: 1.0, 2: 1.1, 3: 1.6, 8: 4.0}, exit_draft_s=0.05), 8)
    source = ExitSource("feature", whole_part="verify", short_part="verify")
    agreement = (0.6, 0.5, 0.5)
    estimator = GatedEstimator(Gated(source, costs), costs, max_depth=7, agreement=agreement)
    offer = estimator.offer(7)
    assert offer is not None  # one draft: 1.6 tokens in 1.15; two: 1.9 in 1.7; deeper ones are right in .5 too
    assert offer.expected_tokens == pytest.approx(1.6)
    assert offer.expected_time == pytest.approx(1.15)


def test_where_rows_are_expensive_a_taught_draft_promises_no_gain() -> None:
    costs = Costs(RowCosts({1: 1.0, 2: 2.2, 4: 3.0}, exit_draft_s=0.05), 4)
    source = ExitSource("feature", whole_part="verify", short_part="verify")
    offer = GatedEstimator(Gated(source, costs), costs, max_depth=3, agreement=(0.67, 0.7, 0.7)).offer(3)
    assert offer is not None and offer.speedup < 1.0


def test_drafts_deeper_than_the_file_covers_have_the_rate_of_its_last_depth() -> None:
    costs = Costs(RowCosts({1: 1.0, 2: 1.9, 3: 1.9, 4: 1.9, 5: 1.9, 6: 3.0}, exit_draft_s=0.01), 8)
    source = ExitSource("feature", whole_part="verify", short_part="verify")
    tokens, time = Gated(source, costs).expected_round((0.8,), 7)
    assert tokens == pytest.approx(1 + 0.8 + 0.8**2 + 0.8**3 + 0.8**4)  # the fifth row ends the tile
    assert time == pytest.approx(1.9 + 4 * 0.01)


def test_reading_the_prompt_does_not_count_as_draft_time() -> None:
    assert offer_after_a_round(first_draft=60.0) == offer_after_a_round(first_draft=0.05)


def offer_after_a_round(*, first_draft: float) -> tuple[float, float, float]:
    """Expected tokens and time of the next round, and the time of a draft; times in plain rounds."""
    now = [0.0]
    costs = Costs(RowCosts({1: 1.0, 2: 1.1, 8: 1.4}, exit_draft_s=0.05), 8)
    source = ExitSource("feature", whole_part="verify", short_part="verify")
    drafter = Gated(source, costs, agreement=0.7, reads_prompt=True, clock=lambda: now[0])
    estimator = GatedEstimator(drafter, costs, max_depth=7, agreement=(0.7,))

    class Timed(Script):
        def draft(self, token: int) -> FakeRow:
            now[0] += 0.05 if self.asked else first_draft
            return super().draft(token)

    for _ in range(2):  # two answers
        began = now[0]
        drafter.reset([5])
        drafts = list(drafter.propose(Timed([(11, 0.95)] * 7), 7))  # type: ignore[arg-type]
        drafter.extend([11] * len(drafts) + [12])
        estimator.observe(Outcome(len(drafts), len(drafts), len(drafts) + 1, now[0] - began, 1.4))
    offer = estimator.offer(7)
    assert offer is not None
    return round(offer.expected_tokens, 6), round(offer.expected_time, 6), round(costs.ratio("exit-draft"), 6)


@pytest.mark.parametrize(("sure", "n_asked"), [(0.35, 1), (0.995, 5)])
def test_a_taught_draft_pays_for_a_second_row_only_where_several_are_likely(sure: float, n_asked: int) -> None:
    """The second row costs nearly a whole round, and the next four almost nothing."""
    costs = Costs(RowCosts({1: 1.0, 2: 1.9, 6: 2.1}, exit_draft_s=0.06), 6)
    source = ExitSource("feature", whole_part="verify", short_part="verify")
    drafter = Gated(source, costs, agreement=0.67, clock=lambda: 0.0)
    drafter.reset([5])
    drafts, asked = propose(drafter, [(11, sure), *[(11, 0.995)] * 6], limit=5)
    assert len(asked) == n_asked
    assert len(drafts) == (n_asked if n_asked > 1 else 0)
