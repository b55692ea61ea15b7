"""The report of a speculation run, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Final

from edgeinfer.bench.report import head
from edgeinfer.bench.speculation.ceiling import Reach, best_seconds, exit_round_s, fixed_seconds, reach
from edgeinfer.bench.speculation.records import CONTROL, PLAIN, Log, Measured, Record, Subject, subjects
from edgeinfer.bench.speculation.report import ALL, Row
from edgeinfer.bench.speculation.sides import SLICE
from edgeinfer.bench.speculation.targets import NOT_SLOWER, slower, verdicts
from edgeinfer.bench.statistics import spread
from edgeinfer.decode.costs import interpolate

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
    yield "over off, first tokens left out; brackets are 95 % intervals over prompts (jackknife, Student's t)."
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
    """By drafter: the time that plain decoding takes for the same tokens, less the time it took."""
    own = [
        record
        for record in log.latest().values()
        if (record.subject.model, record.subject.tier) == (row.model, row.tier)
        and record.temperature == row.temperature
        and row.kind in (record.kind, ALL)
    ]
    plain = [record for record in own if record.arm == PLAIN]
    token_s = sum(record.seconds for record in plain) / sum(record.tokens for record in plain)
    auto = [record for record in own if record.arm == row.arm]
    whole = token_s * sum(record.tokens for record in auto)
    cell = f"{row.model} {row.tier}, {row.arm}, {row.kind}, T={row.temperature:g}"
    for name in sorted({name for record in auto for name in record.arms}):
        rounds, tokens, seconds = (
            sum(part) for part in zip(*(record.arms[name] for record in auto if name in record.arms), strict=True)
        )
        share = (tokens * token_s - seconds) / whole
        yield f"| {cell} | {row.speedup:.3f} | {name} | {rounds} | {tokens} | {share:+.1%} |"


def _models(log: Log, rows: Sequence[Row]) -> Iterator[str]:
    for subject in subjects(log.records):
        own = [row for row in rows if (row.model, row.tier) == (subject.model, subject.tier)]
        yield f"## {subject.model} {subject.tier} ({subject.n_params / 1e6:.0f} M parameters)"
        yield ""
        yield from _noise(log, subject)
        for temperature in dict.fromkeys(row.temperature for row in own):
            yield from _speeds([row for row in own if row.temperature == temperature], temperature)
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
    yield f"{name}; plain {pooled[0].plain_tokens_per_s:.1f} tokens/s, {pooled[0].n_prompts} prompts."
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
    uses = {"lookup": (True, False), "early-exit": (False, True), "auto": (True, True)}
    traced = [one for _, one in reaches if one.exit]
    arms = [arm for arm in uses if (arm, ALL) in won and (traced or arm != "early-exit")]
    if not reaches or not arms:
        return
    kinds = [*dict.fromkeys(kind for kind, _ in reaches), ALL]
    yield f"Won, of what an all-knowing gate would win with these row costs and at most {measured.max_rows} rows a"
    yield f"round (greedy; where the exit drafts, the most is that of the {len(traced)} prompts that it was traced on):"
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
