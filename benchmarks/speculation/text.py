"""Two chapters of the speculation report: the targets, and the most that drafting could have won."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, TypeAlias

from benchmarks.speculation.ceiling import NEVER, FixedGate, Reach, best_gate, best_seconds, fixed_seconds, reach
from benchmarks.speculation.targets import NOT_SLOWER, slower, verdicts
from benchmarks.speculation.trace import Chain
from edgeinfer.bench.speculation.records import CONTROL, Log, Measured, Subject, subjects
from edgeinfer.bench.speculation.report import ALL, Row, rows_of, won

Traces: TypeAlias = Mapping[Subject, Mapping[int, tuple[Chain, ...]]]
_DEPTHS: Final = (1, 2, 3, 4)


def targets(log: Log, rows: Sequence[Row]) -> Iterator[str]:
    found = verdicts(rows)
    if not found:
        return
    yield "## Targets"
    yield ""
    yield "| target | model | weakest cell | value | at least | |"
    yield "|---|---|---|---|---|---|"
    for verdict in found:
        row, target = verdict.row, verdict.target
        cell = f"{row.kind}, T={row.temperature:g}"
        value = f"{target.value(row):.3f} | {target.least:.2f} | {'met' if verdict.met else '**not met**'}"
        value += (
            f"; {verdict.unbounded} cells of one prompt have no bounds and are not judged" if verdict.unbounded else ""
        )
        yield f"| {target.what} | {row.model} {row.tier} | {cell} | {value} |"
    yield ""
    for arm in ("auto", CONTROL):
        below, n = slower(rows, arm)
        if n:
            what = "plain decoding run a second time" if arm == CONTROL else arm
            yield f"Of {n} cells of {what} that have bounds, {below} lie under {NOT_SLOWER:g}."
    yield ""
    weakest = (verdict.row for verdict in found if not verdict.met)
    missed = {(row.model, row.tier, row.arm, row.kind, row.temperature): row for row in weakest}
    if missed:
        yield "What the rounds of the missed cells won or lost, as a share of the plain time of the same tokens:"
        yield ""
        yield "| cell | speed-up | rounds of | rounds | tokens | won |"
        yield "|---|---|---|---|---|---|"
        for row in missed.values():
            yield from _parts(log, row)
        yield ""


def _parts(log: Log, row: Row) -> Iterator[str]:
    cell = f"{row.model} {row.tier}, {row.arm}, {row.kind}, T={row.temperature:g}"
    for name, (rounds, tokens, share) in won(log, row).items():
        yield f"| {cell} | {row.speedup:.3f} | {name} | {rounds} | {tokens} | {share:+.1%} |"


def ceilings(log: Log, rows: Sequence[Row], traces: Traces) -> Iterator[str]:
    """What a perfect gate would have gained on the same tokens with these costs, compared with the actual gain."""
    yield "## The most that drafting could have won"
    yield ""
    for subject in subjects(log.records):
        if subject in log.costs:
            own = [row for row in rows if (row.model, row.tier) == (subject.model, subject.tier)]
            yield f"### {subject.model} {subject.tier}"
            yield ""
            yield from _ceilings(log, subject, own, traces.get(subject, {}))


def _ceilings(
    log: Log, subject: Subject, rows: Sequence[Row], traces: Mapping[int, tuple[Chain, ...]]
) -> Iterator[str]:
    reaches = list(_reaches(log, subject, traces))
    measured = log.costs[subject]
    costs = measured.costs
    gained = {(row.arm, row.kind): row.speedup for row in rows if row.temperature == 0}
    if traces:  # where the exit drafts, both figures are of the prompts that it was traced on
        own = [record for record in log.records if record.subject == subject and record.prompt in traces]
        rows = rows_of(replace(log, records=own))
        gained |= {(row.arm, row.kind): row.speedup for row in rows if row.temperature == 0 and row.arm != "lookup"}
    uses = {"lookup": (True, False), "early-exit": (False, True), "auto": (True, True)}
    traced = [one for _, one in reaches if one.exit]
    arms = [arm for arm in uses if (arm, ALL) in gained and (traced or arm != "early-exit")]
    if not reaches or not arms:
        return
    kinds = [*dict.fromkeys(kind for kind, _ in reaches), ALL]
    yield f"Won, of what a gate that knows all would win with these row costs and at most {measured.max_rows} rows a"
    yield f"round (greedy; where the exit drafts, both are of the {len(traced)} prompts that it was traced on):"
    yield ""
    yield f"| arm | {' | '.join(kinds)} | of the gain there |"
    yield "|---" * (len(kinds) + 2) + "|"
    for arm in arms:
        best = {kind: _best(reaches, kind, measured, uses[arm]) for kind in kinds}
        cells = " | ".join(
            f"{gained[arm, kind]:.2f} of {best[kind]:.2f}" if (arm, kind) in gained else "" for kind in kinds
        )
        share = f"{(gained[arm, ALL] - 1) / (best[ALL] - 1):.0%}" if best[ALL] > 1.005 else ""
        yield f"| {arm} | {cells} | {share} |"
    yield ""
    won = {arm: gained[arm, ALL] for arm in arms}
    yield from _fixed_gates(won, reaches, measured, {arm: uses[arm] for arm in arms})
    if traced and costs.back_short_s:
        plain = sum(len(one.exit) for one in traced) * costs.plain_s
        fixed = [f"{depth}: {plain / sum(fixed_seconds(one, costs, depth) for one in traced):.2f}" for depth in _DEPTHS]
        yield f"Drafting always to a fixed depth by the exit would give {', '.join(fixed)}."
        yield ""


def _fixed_gates(
    won: Mapping[str, float],
    reaches: Sequence[tuple[str, Reach]],
    measured: Measured,
    uses: Mapping[str, tuple[bool, bool]],
) -> Iterator[str]:
    yield "Won, of what the best fixed gate on the drafters' own confidence would win with these row costs, and with"
    yield "nothing else to pay (the same answers):"
    yield ""
    yield "| arm | gate | won | would win | of the speed-up | of the gain |"
    yield "|---|---|---|---|---|---|"
    for arm, (lookup, early_exit) in uses.items():
        chosen = _of_use(reaches, ALL, early_exit=early_exit)
        gate, seconds = best_gate(
            chosen, measured.costs, lookup=lookup, early_exit=early_exit, max_rows=measured.max_rows
        )
        best = sum(len(one.lookup) for one in chosen) * measured.costs.plain_s / seconds
        gain = f"{(won[arm] - 1) / (best - 1):.0%}" if best > 1.005 else ""
        yield f"| {arm} | {_words(gate)} | {won[arm]:.2f} | {best:.2f} | {won[arm] / best:.0%} | {gain} |"
    yield ""


def _words(gate: FixedGate) -> str:
    parts = []
    if gate.least_promised < NEVER:
        parts.append(f"lookup from {gate.least_promised:g}x promised")
    if gate.least_sure < NEVER:
        parts.append(f"exit while its probability is {gate.least_sure:g}")
    return ", ".join(parts) or "no drafts"


def _of_use(reaches: Sequence[tuple[str, Reach]], kind: str, *, early_exit: bool) -> list[Reach]:
    """The answers of a kind; where the exit drafts, those that it was traced on."""
    traced = any(one.exit for _, one in reaches)
    return [one for its, one in reaches if kind in (its, ALL) and (one.exit or not (early_exit and traced))]


def _best(reaches: Sequence[tuple[str, Reach]], kind: str, measured: Measured, use: tuple[bool, bool]) -> float:
    (lookup, early_exit), costs, max_rows = use, measured.costs, measured.max_rows
    chosen = _of_use(reaches, kind, early_exit=early_exit)
    seconds = sum(best_seconds(one, costs, lookup=lookup, early_exit=early_exit, max_rows=max_rows) for one in chosen)
    return sum(len(one.lookup) for one in chosen) * costs.plain_s / seconds if seconds else 1.0


def _reaches(log: Log, subject: Subject, traces: Mapping[int, tuple[Chain, ...]]) -> Iterator[tuple[str, Reach]]:
    for record in log.latest().values():
        prompt, answer = record.text
        if record.subject == subject and len(answer) > 1:
            yield record.kind, reach(prompt, answer, traces.get(record.prompt, ()))
