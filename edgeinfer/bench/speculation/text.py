"""The report of a speculation run, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Final

from edgeinfer.bench.report import head
from edgeinfer.bench.speculation.ceiling import Reach, best_seconds, exit_round_s, fixed_seconds, reach
from edgeinfer.bench.speculation.records import CONTROL, PLAIN, Log, Measured, Record, Subject, subjects
from edgeinfer.bench.speculation.report import ALL, Row, rows_of
from edgeinfer.bench.speculation.sides import SLICE
from edgeinfer.bench.speculation.targets import NOT_SLOWER, slower, verdicts
from edgeinfer.bench.statistics import spread
from edgeinfer.decode.policy.costs import interpolate

NOISY: Final = 0.05  # plain runs of the same prompt that differ by more make a run doubtful
_SHOWN_ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
_FIXED: Final = (1, 2, 3, 4)
_PACKAGES: Final = ("llama-cpp-python", "mlx", "numpy")


def text_of(log: Log, rows: Sequence[Row], command: Sequence[str]) -> str:
    return "\n".join([*_head(log, command), *_verdicts(log, rows), *_models(log, rows)])


def _head(log: Log, command: Sequence[str]) -> Iterator[str]:
    from edgeinfer.device import detect

    versions = {package: found for package in _PACKAGES if (found := _version(package))}
    yield head("Speculation: speed off and on", command, detect(), versions)
    loads = [record.load for record in log.records]
    if loads:
        minutes = sum(record.seconds + record.first_token_s for record in log.records) / 60
        measured = f" Measured at commit {', '.join(dict.fromkeys(log.commits))}." if log.commits else ""
        yield f"All answers together took {minutes:.0f} minutes.{measured}"
        yield f"Load average (1 min) while running: median {median(loads):.1f}, most {max(loads):.1f}."
    yield ""
    yield "Off is the whole model, nothing split. Off and every arm answered each prompt in one process, side by side:"
    yield f"{SLICE} tokens in turn, in an order that changed with every turn. A speed-up is pooled tokens per second on"
    yield "over off, first tokens left out; brackets are 95 % intervals over prompts (jackknife, Student's t), of which"
    yield "two or three alone leave very wide ones. The cells of each prompt by itself are in `--json`."
    yield ""


def _verdicts(log: Log, rows: Sequence[Row]) -> Iterator[str]:
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
    for name, (rounds, tokens, share) in _won(log, row).items():
        yield f"| {cell} | {row.speedup:.3f} | {name} | {rounds} | {tokens} | {share:+.1%} |"


def _won(log: Log, row: Row) -> dict[str, tuple[int, int, float]]:
    """By drafter: rounds, tokens, and the time that plain decoding takes for them less the time it took, as a share."""
    own = [
        record
        for record in log.latest().values()
        if (record.subject.model, record.subject.tier) == (row.model, row.tier)
        and record.temperature == row.temperature
        and row.kind in (record.kind, ALL)
    ]
    token_s = {record.key[:4]: _per_token(record) for record in own if record.arm == PLAIN and record.tokens}
    auto = [record for record in own if record.arm == row.arm and record.key[:4] in token_s]
    whole = sum(token_s[record.key[:4]] * record.tokens for record in auto)
    found: dict[str, tuple[int, int, float]] = {}
    for record in auto:
        for name, (n_rounds, n_tokens, seconds) in record.arms.items():
            rounds, tokens, share = found.get(name, (0, 0, 0.0))
            won = (n_tokens * token_s[record.key[:4]] - seconds) / whole
            found[name] = rounds + n_rounds, tokens + n_tokens, share + won
    return dict(sorted(found.items()))


def _won_by_kind(log: Log, rows: Sequence[Row]) -> Iterator[str]:
    """Of `auto`, greedy. Rounds without a draft cost more than plain ones by what it takes to look for drafts."""
    cells = {row.kind: _won(log, row) for row in rows if row.arm == "auto" and row.temperature == 0}
    if ALL not in cells:
        return
    yield "What the rounds of auto won or lost, as a share of the plain time of the same answers (greedy):"
    yield ""
    yield f"| rounds that drafted by | {' | '.join(cells)} | rounds | tokens |"
    yield "|---" * (len(cells) + 3) + "|"
    for name, (rounds, tokens, _) in cells[ALL].items():
        shares = " | ".join(f"{won[name][2]:+.1%}" if name in won else "" for won in cells.values())
        yield f"| {name} | {shares} | {rounds} | {tokens} |"
    yield ""


def _models(log: Log, rows: Sequence[Row]) -> Iterator[str]:
    for subject in subjects(log.records):
        own = [row for row in rows if (row.model, row.tier) == (subject.model, subject.tier)]
        yield f"## {subject.model} {subject.tier} ({subject.n_params / 1e6:.0f} M parameters)"
        yield ""
        yield from _noise(log, subject)
        for temperature in dict.fromkeys(row.temperature for row in own):
            yield from _speeds([row for row in own if row.temperature == temperature], temperature)
        yield from _won_by_kind(log, own)
        if subject in log.costs:
            yield from _costs(log.costs[subject])
            yield from _ceilings(log, subject, own)


def _noise(log: Log, subject: Subject) -> Iterator[str]:
    """Plain decoding against itself: what a difference must exceed to mean something."""
    by_key = {key: record for key, record in log.latest().items() if record.subject == subject}
    pairs = [(by_key.get((*key[:4], PLAIN)), record) for key, record in by_key.items() if key[4] == CONTROL]
    ratios = [
        _per_token(plain) / _per_token(again) for plain, again in pairs if plain and plain.tokens and again.tokens
    ]
    if not ratios:
        return
    off_by = spread([*ratios, *[1 / ratio for ratio in ratios]])
    drift = _drift([record for record in by_key.values() if record.arm == PLAIN])
    verdict = "**the machine was busy or hot: read these figures with care**" if off_by > NOISY else "steady"
    yield f"Plain decoding run twice on {len(ratios)} prompts differs by {off_by:.1%} (median); {drift}; {verdict}."
    yield ""


def _drift(plain: Sequence[Record]) -> str:
    times = [_per_token(record) for record in plain if record.tokens]
    third = max(1, len(times) // 3)
    change = median(times[-third:]) / median(times[:third]) - 1 if times else 0.0
    return f"the last third of the plain runs took {change:+.1%} a token against the first"


def _per_token(record: Record) -> float:
    return record.seconds / record.tokens


def _speeds(rows: Sequence[Row], temperature: float) -> Iterator[str]:
    kinds = [*dict.fromkeys(row.kind for row in rows if row.kind != ALL), ALL]
    name = "Greedy" if temperature == 0 else f"Temperature {temperature:g}"
    pooled = [row for row in rows if row.kind == ALL]
    if not pooled:
        return
    of = pooled[0]
    times = f", each {of.answers // of.n_prompts} times" if of.answers >= 2 * of.n_prompts else ""
    yield f"{name}; plain {of.plain_tokens_per_s:.1f} tokens/s, {of.n_prompts} prompts{times}."
    yield ""
    yield f"| arm | {' | '.join(kinds)} | acceptance | same tokens | first token | time in |"
    yield "|---" * (len(kinds) + 5) + "|"
    for row in pooled:
        cells = {other.kind: other for other in rows if other.arm == row.arm}
        speeds = " | ".join(_cell(cells[kind]) if kind in cells else "" for kind in kinds)
        acceptance = "" if row.acceptance is None else f"{row.acceptance:.2f}"
        shares = ", ".join(f"{arm} {share:.0%}" for arm, share in row.shares.items())
        same = f"{row.identical}/{row.answers}"
        yield f"| {row.arm} | {speeds} | {acceptance} | {same} | {row.first_token_ratio:.2f} | {shares} |"
    yield ""


def _cell(row: Row) -> str:
    bounds = f" [{row.speedup_low:.2f}, {row.speedup_high:.2f}]" if row.n_prompts > 1 else " (one prompt)"
    value = f"{row.speedup:.2f}{bounds}"
    return f"**{value}**" if row.kind == ALL else value


def _costs(measured: Measured) -> Iterator[str]:
    costs, shown = measured.costs, [rows for rows in _SHOWN_ROWS if rows <= measured.max_rows]
    yield f"Row costs measured before the run, a plain round ({costs.plain_s * 1e3:.1f} ms) being 1:"
    yield ""
    yield f"| rows | {' | '.join(map(str, shown))} |"
    yield "|---" * (len(shown) + 1) + "|"
    rows = " | ".join(f"{interpolate(costs.verify_s, n) / costs.plain_s:.2f}" for n in shown)
    yield f"| verify | {rows} |"
    most = " | ".join(f"{n * costs.plain_s / interpolate(costs.verify_s, n):.2f}x" for n in shown)
    yield f"| speed-up if every draft were free and right | {most} |"
    if costs.back_short_s:
        drafted = " | ".join(f"{exit_round_s(costs, n - 1) / costs.plain_s:.2f}" if n <= 9 else "" for n in shown)
        yield f"| drafted by the exit (one draft {costs.exit_draft_s / costs.plain_s:.2f}), then verified | {drafted} |"
    yield ""


def _ceilings(log: Log, subject: Subject, rows: Sequence[Row]) -> Iterator[str]:
    """What an all-knowing gate would have won on the same tokens with these costs, against what was won."""
    reaches = list(_reaches(log, subject))
    measured = log.costs[subject]
    costs = measured.costs
    won = {(row.arm, row.kind): row.speedup for row in rows if row.temperature == 0}
    traced_on = {trace.prompt for trace in log.traces if trace.subject == subject}
    if traced_on:  # where the exit drafts, both figures are of the prompts that it was traced on
        own = [record for record in log.records if record.subject == subject and record.prompt in traced_on]
        rows = rows_of(replace(log, records=own))
        won |= {(row.arm, row.kind): row.speedup for row in rows if row.temperature == 0 and row.arm != "lookup"}
    uses = {"lookup": (True, False), "early-exit": (False, True), "auto": (True, True)}
    traced = [one for _, one in reaches if one.exit]
    arms = [arm for arm in uses if (arm, ALL) in won and (traced or arm != "early-exit")]
    if not reaches or not arms:
        return
    kinds = [*dict.fromkeys(kind for kind, _ in reaches), ALL]
    yield f"Won, of what an all-knowing gate would win with these row costs and at most {measured.max_rows} rows a"
    yield f"round (greedy; where the exit drafts, both are of the {len(traced)} prompts that it was traced on):"
    yield ""
    yield f"| arm | {' | '.join(kinds)} | of the gain there |"
    yield "|---" * (len(kinds) + 2) + "|"
    for arm in arms:
        best = {kind: _best(reaches, kind, measured, uses[arm]) for kind in kinds}
        cells = " | ".join(f"{won[arm, kind]:.2f} of {best[kind]:.2f}" if (arm, kind) in won else "" for kind in kinds)
        share = f"{(won[arm, ALL] - 1) / (best[ALL] - 1):.0%}" if best[ALL] > 1.005 else ""
        yield f"| {arm} | {cells} | {share} |"
    yield ""
    if traced and costs.back_short_s:
        plain = sum(len(one.exit) for one in traced) * costs.plain_s
        fixed = [f"{depth}: {plain / sum(fixed_seconds(one, costs, depth) for one in traced):.2f}" for depth in _FIXED]
        yield f"Drafting always to a fixed depth by the exit would give {', '.join(fixed)}."
        yield ""


def _best(reaches: Sequence[tuple[str, Reach]], kind: str, measured: Measured, use: tuple[bool, bool]) -> float:
    (lookup, early_exit), costs, max_rows = use, measured.costs, measured.max_rows
    traced = any(one.exit for _, one in reaches)
    chosen = [one for its, one in reaches if kind in (its, ALL) and (one.exit or not (early_exit and traced))]
    seconds = sum(best_seconds(one, costs, lookup=lookup, early_exit=early_exit, max_rows=max_rows) for one in chosen)
    return sum(len(one.lookup) for one in chosen) * costs.plain_s / seconds if seconds else 1.0


def _reaches(log: Log, subject: Subject) -> Iterator[tuple[str, Reach]]:
    agreed = {trace.prompt: trace.agreed for trace in log.traces if trace.subject == subject}
    for record in log.latest().values():
        prompt, answer = record.text
        if record.subject == subject and len(answer) > 1:
            yield record.kind, reach(prompt, answer, agreed.get(record.prompt, ()))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
