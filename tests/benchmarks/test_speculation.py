"""Targets and ceilings of the speculation report, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.speculation.ceiling import (
    NEVER,
    FixedGate,
    Reach,
    best_gate,
    best_seconds,
    fixed_seconds,
    gated_seconds,
    reach,
)
from benchmarks.speculation.targets import slower, verdicts
from benchmarks.speculation.text import ceilings, targets
from edgeinfer.bench.speculation.records import CONTROL, PLAIN, Log, Measured
from edgeinfer.bench.speculation.report import ALL, Row, rows_of
from tests.unit.test_bench_speculation import COSTS, TINY, record


def test_the_ceilings_by_hand() -> None:
    """Plain takes 4 s for the four tokens after the first, the best lookup one round of 1.6 s: 4 / 1.6 = 2.5."""
    log = Log(costs={TINY: Measured(TINY, COSTS, 16)})
    log.add(record(0, PLAIN, 4.0, tokens=4, text=((9, 5, 6, 7, 1), (9, 5, 6, 7, 8))))
    log.add(record(0, "lookup", 2.0, tokens=4))
    lines = list(ceilings(log, rows_of(log), {}))
    assert "### tiny F32" in lines
    assert "| lookup | 2.00 of 2.50 | 2.00 of 2.50 | 67% |" in lines


def test_a_missed_target_is_explained_by_its_parts() -> None:
    """Plain: 1 s for 10 tokens. On: 6 plain rounds of .15 s, and 2 of lookup that gave 4 tokens for .7 s."""
    log = Log()
    for prompt in (0, 1):
        log.add(record(prompt, PLAIN, 1.0))
        log.add(record(prompt, "auto", 1.6, arms={"none": (6, 6, 0.9), "lookup": (2, 4, 0.7)}))
    lines = list(targets(log, rows_of(log)))
    assert "| tiny F32, auto, chat, T=0 | 0.625 | lookup | 4 | 8 | -30.0% |" in lines
    assert "| tiny F32, auto, chat, T=0 | 0.625 | none | 12 | 12 | -30.0% |" in lines


def test_what_lookup_and_the_exit_could_reach_by_hand() -> None:
    #                       answer: 9 5 6 7 8 ; the prompt holds 9 5 6 7 once
    chains = [((5, 0.9), (6, 0.8), (1, 0.2)), ((6, 0.8), (1, 0.2)), ((1, 0.2), (8, 0.9)), ((8, 0.9),)]
    found = reach([9, 5, 6, 7, 1], [9, 5, 6, 7, 8], chains)
    assert found.lookup == (3, 2, 1, 0)
    assert found.exit == (2, 1, 0, 1)
    assert found.exit_sure == ((0.9, 0.8, 0.2), (0.8, 0.2), (0.2, 0.9), (0.9,))
    assert all(0.0 < rate < 1.0 for rates in found.lookup_rates for rate in rates[:1])


def test_the_gain_of_a_perfect_gate_by_hand() -> None:
    found = Reach((3, 2, 1, 0), (2, 1, 0, 1))
    # lookup: three drafts and the token after them in one round of four rows
    assert best_seconds(found, COSTS, lookup=True, early_exit=False, max_rows=16) == pytest.approx(1.6)
    # exit: two drafts (0.6) and a round of three rows (1.3), then one plain round
    assert best_seconds(found, COSTS, lookup=False, early_exit=True, max_rows=16) == pytest.approx(2.9)
    assert best_seconds(found, COSTS, lookup=False, early_exit=False, max_rows=16) == pytest.approx(4.0)
    # always one draft: (0.3 + 1.1) twice; the second one is wrong, so a plain round is left
    assert fixed_seconds(Reach((0, 0, 0, 0), (1, 1, 0, 1)), COSTS, 1) == pytest.approx(1.4 + 1.4 + 1.0)


SURE = Reach((0,) * 4, (2, 1, 0, 1), ((),) * 4, ((0.9, 0.8, 0.2), (0.8, 0.2), (0.2, 0.9), (0.9,)))
BACK = replace(COSTS, back_s={1: 0.8, 8: 1.5}, first_draft_s=0.5)


def test_a_fixed_gate_by_hand() -> None:
    # drafts .9 and .8 are kept, .2 is made and dropped (.5 + 2 * .3, three of four rows: 1.0); both are right, and the
    # third token comes with the verify. No draft fits before the last token.
    assert gated_seconds(SURE, BACK, FixedGate(NEVER, 0.5), 16) == pytest.approx(1.1 + 1.0 + 1.0)
    # the first draft alone is kept, twice right: (.5 + .3, two of three rows: .9), then one more token, all of them
    assert gated_seconds(SURE, BACK, FixedGate(NEVER, 0.85), 16) == pytest.approx(0.8 + 0.9 + (0.5 + 0.8) + 1.0)
    assert gated_seconds(SURE, BACK, FixedGate(NEVER, NEVER), 16) == pytest.approx(4.0)


def test_the_best_fixed_gate_is_the_quickest_and_may_be_none() -> None:
    gate, seconds = best_gate([SURE], BACK, lookup=False, early_exit=True, max_rows=16)
    assert gate.least_promised == NEVER
    assert seconds == pytest.approx(3.1)
    assert 0.2 < gate.least_sure <= 0.8
    dear = replace(BACK, exit_draft_s=2.0, first_draft_s=2.0)
    assert best_gate([SURE], dear, lookup=False, early_exit=True, max_rows=16) == (FixedGate(NEVER, NEVER), 4.0)


def test_lookup_is_taken_by_its_own_rates() -> None:
    rates = ((0.9, 0.9, 0.9), (0.9, 0.9), (0.9,), ())
    copied = Reach((3, 2, 1, 0), (), rates, ())
    # 1 + .9 + .81 + .729 = 3.44 tokens for 1.6: all four in one round
    assert gated_seconds(copied, COSTS, FixedGate(2.0, NEVER), 16) == pytest.approx(1.6)
    assert gated_seconds(copied, COSTS, FixedGate(2.2, NEVER), 16) == pytest.approx(4.0)
    assert best_gate([copied], COSTS, lookup=False, early_exit=False, max_rows=16)[1] == pytest.approx(4.0)


def a_row(**changes: object) -> Row:
    row = Row("m", "F16", 10**9, 0.0, ALL, "auto", 5, 1.0, 1.0, 1.31, 1.2, 1.4, 0.8, 5, 5, 1.0, {})
    return replace(row, **changes)  # type: ignore[arg-type]


def test_a_target_is_judged_by_its_weakest_cell() -> None:
    rows = [
        a_row(),
        a_row(kind="story", speedup=0.9, speedup_low=0.8, speedup_high=0.97),
        a_row(kind="chat", n_prompts=1, speedup_high=0.5),  # one prompt has no bounds
        a_row(kind="story", temperature=0.7, speedup_high=0.99),
        a_row(arm="early-exit", speedup=1.1),
        a_row(arm=CONTROL, speedup_high=0.5),
        a_row(model="small", n_params=10**6, tier="Q4_0", kind="copy", speedup=1.36),
    ]
    judged = {(v.target.what.split(":")[0], v.row.model): v.met for v in verdicts(rows)}
    assert judged == {
        ("auto is nowhere slower", "m"): False,
        ("auto is nowhere slower", "small"): True,
        ("the same at temperature 0.7", "m"): True,
        ("large F16, early exit alone", "m"): False,
        ("large F16, auto", "m"): True,
        ("small Q4_0, auto, copying", "small"): True,
    }


def test_slower_cells_of_the_control_arm_are_counted() -> None:
    rows = [a_row(arm=CONTROL, speedup_high=0.97), a_row(arm=CONTROL, kind="chat", speedup_high=1.02)]
    assert slower([*rows, a_row(arm=CONTROL, n_prompts=1, speedup_high=0.5)], CONTROL) == (1, 2)
