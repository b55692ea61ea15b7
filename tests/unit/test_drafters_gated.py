"""Gated drafting on a scripted exit: it stops when unsure, verifies the drafts that pay, and learns."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from edgeinfer.decode.drafters.early_exit import ExitSource
from edgeinfer.decode.drafters.gated import Gated, GatedEstimator
from edgeinfer.decode.policy.arms import Outcome
from edgeinfer.decode.policy.costs import DEEPER, FIRST, Costs, RowCosts
from edgeinfer.decode.policy.gate import BUCKET_EDGES, MISSED, UNKNOWN, Gate, bucket
from edgeinfer.decode.policy.lookahead import NEVER, LookAhead, RoundTimes, look_ahead
from edgeinfer.decode.policy.offers import OVERESTIMATE, best_length, n_worth_verifying
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


def test_the_state_is_that_of_the_newest_draft_until_a_round_drafts_nothing() -> None:
    drafter = gated()
    propose(drafter, [(11, 0.99), (12, 0.99)], limit=2)
    drafter.extend([11, 12, 13])
    assert drafter.state == bucket(0.99)
    propose(drafter, [(11, 0.99), (12, 0.99)], limit=2)
    drafter.extend([11, 99])
    assert drafter.state == MISSED
    drafter.extend([5])  # a plain round: what was missed before says nothing any more
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


def times_of(costs: RowCosts, max_drafts: int) -> RoundTimes:
    ratio, rows = Costs(costs, max_drafts + 1).ratio, range(1, max_drafts + 2)
    return RoundTimes(
        ratio("exit-draft", FIRST),
        ratio("exit-draft", DEEPER),
        [ratio("back-short", n) for n in rows],
        [ratio("back", n) for n in rows],
    )


def always(acceptance: float) -> Gate:
    """A gate whose drafts are all of one bucket and are accepted with this probability."""
    gate = Gate()
    sure = bucket(acceptance)
    for state in range(MISSED + 1):
        gate.following(state)
        gate._next[state] = [float(after == sure) for after in range(UNKNOWN)]
    gate._accepted[sure], gate._tries[sure] = acceptance, 1.0
    return gate


def test_a_round_is_expected_to_give_and_take_by_hand() -> None:
    # drafts of .5: 1 + .5 + .25 + .125 tokens for a first draft of .4, two of .1, and a verify of four rows
    costs = RowCosts({1: 1.0, 4: 1.0}, {1: 1.0, 4: 1.0}, {1: 1.0, 4: 1.0}, exit_draft_s=0.1, first_draft_s=0.4)
    ahead = look_ahead(always(0.5), times_of(costs, 3), tokens_per_time=1.0)
    assert ahead.tokens[UNKNOWN] == pytest.approx(1.875, abs=0.02)  # interpolated
    assert ahead.time[UNKNOWN] == pytest.approx(0.4 + 2 * 0.1 + 1.0, abs=0.02)
    assert ahead.goes_on(2, UNKNOWN, 0.25) and not ahead.goes_on(3, UNKNOWN, 1.0)


def test_a_draft_that_does_not_pay_is_dropped_and_ends_the_round() -> None:
    costs = RowCosts({1: 1.0, 2: 2.0}, {1: 0.9, 2: 1.9}, {1: 1.0, 2: 2.0}, 0.1)
    ahead = look_ahead(always(0.5), times_of(costs, 1), tokens_per_time=1.0)
    assert (ahead.tokens[UNKNOWN], ahead.time[UNKNOWN]) == pytest.approx((1.0, 0.1 + 0.9))


TILE = RowCosts({1: 1.0, 2: 1.8, 6: 2.0}, {1: 0.9, 2: 1.7, 6: 1.9}, {1: 1.0, 2: 1.8, 6: 2.0}, 0.05)


def test_a_second_row_that_loses_is_bought_where_the_next_ones_are_nearly_free() -> None:
    """One draft of .7 gives 1.7 tokens for 1.85; five give 2.94 for 2.25."""
    one, five = (look_ahead(always(0.7), times_of(TILE, n), tokens_per_time=1.0) for n in (1, 5))
    assert one.tokens[UNKNOWN] == pytest.approx(1.0)  # dropped
    assert five.tokens[UNKNOWN] == pytest.approx(2.941, abs=0.05)
    assert five.time[UNKNOWN] == pytest.approx(2.25, abs=0.05)
    assert least(five, 1) <= 0.55 < NEVER == least(five, 5)


def least(ahead: LookAhead, n_drafts: int) -> float:
    return ahead.least_reached[n_drafts][UNKNOWN]


def test_dearer_time_asks_for_surer_drafts() -> None:
    cheap, dear = (look_ahead(Gate(), times_of(CHEAP, 7), price) for price in (1.0, 1.6))
    assert least(cheap, 3) < least(dear, 3)


@pytest.mark.parametrize("agreement", [0.2, 0.5, 0.67, 0.9])
def test_the_gate_expects_a_known_agreement_of_the_first_draft(agreement: float) -> None:
    def expected(gate: Gate) -> float:
        return sum(share * gate.acceptance(after) for after, share in enumerate(gate.following(UNKNOWN)))

    assert expected(Gate(agreement)) == pytest.approx(agreement, abs=1e-6)
    assert expected(Gate()) == pytest.approx(0.684, abs=1e-3)


def test_a_new_answer_keeps_half_of_what_followed_what() -> None:
    gate = Gate()
    (before,) = {gate.following(UNKNOWN)[2]}
    for _ in range(11):
        gate.learn_transition(UNKNOWN, 2)
    learned = gate.following(UNKNOWN)[2]
    gate.begin_answer()
    assert (before, learned, gate.following(UNKNOWN)[2]) == pytest.approx((1 / 11, 12 / 22, 6.5 / 16.5))


def test_the_offer_is_what_the_gate_expects_in_the_time_that_rounds_took() -> None:
    costs = Costs(CHEAP, 8)
    drafter = Gated(ExitSource(), costs, clock=lambda: 0.0)
    estimator = GatedEstimator(drafter, costs)
    drafter.reset([5])
    first = estimator.offer(7)
    assert first is not None
    assert first.expected_tokens == drafter.ahead.tokens[UNKNOWN]
    assert first.expected_time == pytest.approx(drafter.ahead.time[UNKNOWN] * OVERESTIMATE)
    for _ in range(20):  # rounds of one dropped draft, which take 1.4 of their expected time
        propose(drafter, [(11, 0.02)])
        expected = drafter.expected_time(0)
        drafter.extend([9])
        estimator.observe(Outcome(0, 0, 1, 0.0, 1.4 * expected))
    later = estimator.offer(7)
    assert later is not None
    assert later.expected_time / drafter.ahead.time[drafter.state] > 1.2 * OVERESTIMATE


def test_interruptions_count_as_they_do_in_plain_rounds() -> None:
    """One plain round in four takes five times as long: two plain rounds on average. A drafted round that takes twice
    its expected time is then no slower than expected."""
    costs = Costs(CHEAP, 8)
    for _ in range(100):
        for seconds in (1.0, 1.0, 1.0, 5.0):
            costs.observe_plain(seconds)
    mean = costs.plain_mean * costs.unit_s
    assert mean == pytest.approx(2.0, rel=0.1)
    assert costs.unit_s < 1.7  # near the median
    drafter = Gated(ExitSource(), costs, clock=lambda: 0.0)
    estimator = GatedEstimator(drafter, costs)
    drafter.reset([5])
    for _ in range(200):
        propose(drafter, [(11, 0.02)])
        expected = drafter.expected_time(0)
        drafter.extend([9])
        estimator.observe(Outcome(0, 0, 1, 0.0, expected * mean))
    offer = estimator.offer(7)
    assert offer is not None
    assert offer.expected_time == pytest.approx(drafter.ahead.time[drafter.state] * OVERESTIMATE, rel=0.05)


def test_a_draft_that_is_only_dropped_is_never_offered_as_a_gain() -> None:
    """By these costs a draft and the late layers take .8 of a plain round: noise, since together they are one."""
    costs = Costs(RowCosts({1: 1.0, 2: 3.0}, {1: 0.5, 2: 2.5}, {1: 1.0, 2: 3.0}, 0.3), 2)
    offer = GatedEstimator(Gated(ExitSource(), costs), costs).offer(1)
    assert offer is not None
    assert offer.expected_tokens == pytest.approx(1.0)
    assert offer.speedup < 1.0


def test_where_rows_are_expensive_a_taught_draft_promises_no_gain() -> None:
    costs = Costs(RowCosts({1: 1.0, 2: 2.2, 4: 3.0}, exit_draft_s=0.05), 4)
    source = ExitSource("feature", whole_part="verify", short_part="verify")
    drafter = Gated(source, costs, agreement=0.67)
    offer = GatedEstimator(drafter, costs).offer(3)
    assert offer is not None and offer.speedup < 1.0


def test_reading_the_prompt_does_not_count_as_draft_time() -> None:
    assert offer_after_a_round(first_draft=60.0) == offer_after_a_round(first_draft=0.05)


def offer_after_a_round(*, first_draft: float) -> tuple[float, float, float]:
    """Expected tokens and time of the next round, and the time of a draft; times in plain rounds."""
    now = [0.0]
    costs = Costs(RowCosts({1: 1.0, 2: 1.1, 8: 1.4}, exit_draft_s=0.05), 8)
    source = ExitSource("feature", whole_part="verify", short_part="verify")
    drafter = Gated(source, costs, agreement=0.7, reads_prompt=True, clock=lambda: now[0])
    estimator = GatedEstimator(drafter, costs)

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
