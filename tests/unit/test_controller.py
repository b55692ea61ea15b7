"""The controller in simulated time: its regret against the best fixed arm, and its worst-case cost."""

from __future__ import annotations

import pytest

from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.drafters.lookup import Lookup
from edgeinfer.decode.policy.arms import NONE, Arm, Fixed, Outcome
from edgeinfer.decode.policy.controller import Auto, TrialBudget, decide
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.decode.policy.offers import Offer
from tests.unit.simulated import Clock, Device, Played, a_text, auto, play

PHASES = (("prose", 300), ("easy", 300), ("copy", 300), ("prose", 300), ("copy", 200), ("easy", 200))
CHEAP_ROWS = Device(row=0.12, draft=0.28)
DEAR_ROWS = Device(row=0.9, draft=0.45)


def best_fixed(text: object, device: Device) -> float:
    arms = [NONE, *[Arm("lookup", n) for n in (1, 2, 3, 5, 8, 15)], *[Arm("early-exit", n) for n in (1, 2, 3, 5, 8)]]
    return min(fixed(text, device, arm).seconds for arm in arms)


def fixed(text: object, device: Device, arm: Arm) -> Played:
    return play(text, device, Fixed(arm), {"lookup": Lookup(), "early-exit": EarlyExit()}, Clock())  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    "device",
    [
        CHEAP_ROWS,
        Device(row=0.12, draft=0.28, unit_s=0.05),
        Device(row=0.5, draft=0.3),
        Device(row=0.12, draft=0.28, noise=0.2, hiccup=40),
    ],
)
def test_regret_against_the_best_fixed_arm_when_acceptance_changes(device: Device, seed: int) -> None:
    """At most 2 % slower than the best fixed arm. Mostly it is faster, because no arm is best throughout."""
    text = a_text(PHASES, seed)
    clock = Clock()
    controller, drafters = auto(device, clock)
    assert play(text, device, controller, drafters, clock).seconds <= 1.02 * best_fixed(text, device)


def test_lookup_takes_over_when_a_chat_begins_to_copy() -> None:
    text = a_text((("prose", 400), ("copy", 400)))
    clock = Clock()
    controller, drafters = auto(CHEAP_ROWS, clock)
    played = play(text, CHEAP_ROWS, controller, drafters, clock)
    prose = [arm for arm in played.choices[:300] if arm.name == "lookup"]
    copied = played.choices[-20:]
    assert len(prose) < 100
    assert sum(arm.name == "lookup" and arm.depth >= 7 for arm in copied) >= 16


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("error", [0.0, 0.3])
def test_where_speculation_never_pays_it_ends_within_two_percent_of_plain(seed: int, error: float) -> None:
    text = a_text((("prose", 1500),), seed)
    clock = Clock()
    controller, drafters = auto(DEAR_ROWS, clock, error=error, seed=seed)
    plain = fixed(text, DEAR_ROWS, NONE).seconds
    assert plain / play(text, DEAR_ROWS, controller, drafters, clock).seconds >= 0.98


@pytest.mark.parametrize(
    ("said", "true", "kind", "least"),
    [
        # The stored costs say that rows are free. They are not.
        (Device(row=0.0, draft=0.05), DEAR_ROWS, "prose", 0.95),
        # These costs were stored on a busy machine. Drafts pay on copied text, so a drafter must recover: the exit
        # does, and then lookup is not tried.
        (Device(row=2.0, draft=2.0), CHEAP_ROWS, "copy", 1.4),
    ],
    ids=["flatters", "scares"],
)
def test_wrong_stored_costs_are_corrected(said: Device, true: Device, kind: str, least: float) -> None:
    text = a_text(((kind, 1500),))
    clock = Clock()
    controller, drafters = auto(said, clock, error=0.0)
    plain = fixed(text, true, NONE).seconds
    assert plain / play(text, true, controller, drafters, clock).seconds >= least


@pytest.mark.parametrize("plain_error", [1.3, 0.8])
def test_a_wrong_stored_plain_round_is_corrected(plain_error: float) -> None:
    """All other costs are relative to it: if it is too high, every drafter looks good."""
    device = Device(row=0.6, draft=0.33, head=0.2)
    text = a_text((("mixed", 300),))
    clock = Clock()
    controller, drafters = auto(device, clock, error=0.0, plain_error=plain_error)
    played = play(text, device, controller, drafters, clock)
    assert fixed(text, device, NONE).seconds / played.seconds >= 0.955
    assert controller.plain_s == pytest.approx(device.unit_s, rel=0.05)


def test_a_long_slow_phase_is_not_excused_by_a_long_fast_one() -> None:
    budget = TrialBudget()
    budget.spend(1e6)
    slow, tried = Offer(Arm("b", 1), 1.1, 1.3), 0
    while decide(slow, budget) == "try":
        budget.lost += slow.expected_time - slow.expected_tokens
        tried += 1
    assert tried <= 10


def test_the_same_observations_give_the_same_choices() -> None:
    text = a_text(PHASES)
    runs = []
    for _ in range(2):
        clock = Clock()
        controller, drafters = auto(CHEAP_ROWS, clock)
        runs.append(play(text, CHEAP_ROWS, controller, drafters, clock).choices)
    assert runs[0] == runs[1]
    assert len({arm.name for arm in runs[0]}) == 3


def test_without_room_for_drafts_a_round_is_plain() -> None:
    controller, _ = auto(CHEAP_ROWS, Clock())
    assert controller.choose(0) == NONE


def test_a_losing_offer_is_tried_only_within_the_budget() -> None:
    quick, slow, hopeless = Offer(Arm("a", 3), 3.0, 2.0), Offer(Arm("b", 1), 1.2, 1.5), Offer(Arm("c", 1), 1.0, 3.0)
    assert decide(quick, TrialBudget()) == "take"
    assert decide(slow, TrialBudget(spent=10.0)) == "leave"
    assert decide(slow, TrialBudget(spent=100.0)) == "try"
    assert decide(slow, TrialBudget(spent=100.0, lost=0.4)) == "leave"
    assert decide(hopeless, TrialBudget(spent=1e9)) == "leave"


def test_the_fastest_offer_is_taken() -> None:
    slow, quick = Always("slow", 1.3, 1.0), Always("quick", 3.0, 2.0)
    for estimators in ([slow, quick], [quick, slow]):
        assert Auto(estimators, Costs(RowCosts({1: 1.0, 4: 1.0}), 4)).choose(3) == quick.fixed.arm


@pytest.mark.parametrize(("plain_s", "rest"), [(0.00099, 15), (0.0037, 4), (0.009, 1), (0.02, 0)])
def test_questions_that_find_nothing_become_rare_where_rounds_are_quick(plain_s: float, rest: int) -> None:
    """At most 75 us a question, and 0.5 % of the time."""
    loses = Always("lookup", 1.0, 9.0)
    controller = Auto([loses], Costs(RowCosts({1: plain_s, 4: plain_s}), 4))

    def asked(rounds: int) -> int:
        before = loses.asked
        for _ in range(rounds):
            assert controller.choose(3) == NONE
        return loses.asked - before

    assert asked(4) == 4  # an answer may begin with a copy
    asked(1000)
    assert asked(100 * (rest + 1)) == 100
    loses.fixed = Offer(Arm("lookup", 2), 3.0, 1.0)
    assert [controller.choose(3) for _ in range(rest + 6)][rest:] == [loses.fixed.arm] * 6


class Always:
    """An estimator with one offer."""

    def __init__(self, name: str, tokens: float, cost: float) -> None:
        self.name, self.fixed, self.observed, self.asked = name, Offer(Arm(name, 2), tokens, cost), 0, 0

    def offer(self, limit: int) -> Offer | None:
        self.asked += 1
        return self.fixed

    def observe(self, outcome: Outcome) -> None:
        self.observed += 1


def test_trials_of_losing_arms_lose_less_than_their_share_of_time() -> None:
    """Trials may cost 0.5 % of all time, and they are a small share of rounds."""
    loser = Always("loser", 1.0, 1.5)
    costs = Costs(RowCosts({1: 1.0, 2: 2.0}), 4)
    controller = Auto([loser], costs)
    time, trials = 0.0, 0
    for _ in range(5000):
        arm = controller.choose(3)
        trials += arm != NONE
        seconds = 1.0 if arm == NONE else 1.5
        time += seconds
        controller.observe(arm, Outcome(arm.depth, 0, 1, 0.0, seconds))
    assert 10 < trials == loser.observed
    assert trials * 0.5 <= 0.006 * time
    assert trials * 1.5 <= 0.02 * time


def test_plain_rounds_are_measured_while_a_drafter_wins() -> None:
    controller = Auto([Always("winner", 3.0, 1.5)], Costs(RowCosts({1: 1.0, 2: 2.0}), 4))
    plain = 0
    for _ in range(1300):
        arm = controller.choose(3)
        plain += arm == NONE
        controller.observe(arm, Outcome(2, 2, 3, 0.0, 1.5) if arm.depth else Outcome(0, 0, 1, 0.0, 1.0))
    assert 15 <= plain <= 25
