"""The report of a speculation run, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from statistics import median
from typing import Final

from edgeinfer.bench.report import head
from edgeinfer.bench.speculation.records import CONTROL, PLAIN, Log, Measured, Record, Subject, subjects
from edgeinfer.bench.speculation.report import ALL, Row, exit_round_s, per_token, won
from edgeinfer.bench.speculation.sides import SLICE
from edgeinfer.bench.statistics import spread
from edgeinfer.decode.policy.costs import interpolate

NOISY: Final = 0.05  # plain runs of the same prompt that differ by more make a run doubtful
_SHOWN_ROWS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
_PACKAGES: Final = ("llama-cpp-python", "mlx", "numpy")


def text_of(log: Log, rows: Sequence[Row], command: Sequence[str]) -> str:
    return "\n".join([*_head(log, command), *_models(log, rows)])


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
    yield "two or three alone leave very wide ones. The cells of single prompts are in `--json`."
    yield ""


def _won_by_kind(log: Log, rows: Sequence[Row]) -> Iterator[str]:
    """Greedy rounds of `auto`. Rounds without a draft cost more than plain ones, because drafts were looked for."""
    cells = {row.kind: won(log, row) for row in rows if row.arm == "auto" and row.temperature == 0}
    if ALL not in cells:
        return
    yield "What the rounds of auto won or lost, as a share of the plain time of the same answers (greedy):"
    yield ""
    yield f"| rounds that drafted by | {' | '.join(cells)} | rounds | tokens |"
    yield "|---" * (len(cells) + 3) + "|"
    for name, (rounds, tokens, _) in cells[ALL].items():
        shares = " | ".join(f"{parts[name][2]:+.1%}" if name in parts else "" for parts in cells.values())
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


def _noise(log: Log, subject: Subject) -> Iterator[str]:
    """Plain decoding against itself: a difference must exceed this to mean anything."""
    by_key = {key: record for key, record in log.latest().items() if record.subject == subject}
    pairs = [(by_key.get((*key[:4], PLAIN)), record) for key, record in by_key.items() if key[4] == CONTROL]
    ratios = [per_token(plain) / per_token(again) for plain, again in pairs if plain and plain.tokens and again.tokens]
    if not ratios:
        return
    off_by = spread([*ratios, *[1 / ratio for ratio in ratios]])
    drift = _drift([record for record in by_key.values() if record.arm == PLAIN])
    verdict = "**the machine was busy or hot: read these figures with care**" if off_by > NOISY else "steady"
    yield f"Plain decoding run twice on {len(ratios)} prompts differs by {off_by:.1%} (median); {drift}; {verdict}."
    yield ""


def _drift(plain: Sequence[Record]) -> str:
    times = [per_token(record) for record in plain if record.tokens]
    third = max(1, len(times) // 3)
    change = median(times[-third:]) / median(times[:third]) - 1 if times else 0.0
    return f"the last third of the plain runs took {change:+.1%} a token against the first"


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
        deeper = costs.exit_draft_s / costs.plain_s
        first = costs.first_draft_s / costs.plain_s or deeper
        yield f"| drafted by the exit (first draft {first:.2f}, others {deeper:.2f}), then verified | {drafted} |"
    yield ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
