"""From the log of a speculation run to the rows of its report."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeAlias

from edgeinfer.bench.speculation.records import CONTROL, PLAIN, Log, Record, Subject, subjects
from edgeinfer.bench.statistics import Pair, speedup
from edgeinfer.decode.policy.costs import RowCosts, interpolate

ALL: Final = "all"  # every kind, pooled

_Cell: TypeAlias = tuple[Subject, float, str, str, int | None]


@dataclass(frozen=True, slots=True)
class Row:
    """One cell of the report: an arm on one kind of prompt (or on all) of one model at one temperature."""

    model: str
    tier: str
    n_params: int
    temperature: float
    kind: str
    arm: str
    n_prompts: int
    plain_tokens_per_s: float
    tokens_per_s: float
    speedup: float
    speedup_low: float
    speedup_high: float
    acceptance: float | None  # None: nothing was drafted
    identical: int  # answers with the tokens of plain decoding
    answers: int
    first_token_ratio: float  # time to the first token, plain over this arm
    shares: Mapping[str, float]  # of the arm's time, by drafter
    prompt: int | None = None  # its place in the prompts file; None: several are pooled


def as_json(row: Row) -> dict[str, Any]:
    values = asdict(row)
    values["identical"] = row.identical == row.answers
    values["n_identical"] = row.identical
    return values


def rows_of(log: Log) -> list[Row]:
    """Every model, temperature, arm and kind that was measured, kinds pooled last."""
    return _rows(log, lambda record: ((record.kind, None), (ALL, None)))


def rows_by_prompt(log: Log) -> list[Row]:
    """Every prompt by itself, its runs pooled. Such a row has no bounds: both equal the speed-up."""
    return _rows(log, lambda record: ((record.kind, record.prompt),))


def _rows(log: Log, cells_of: Callable[[Record], Iterable[tuple[str, int | None]]]) -> list[Row]:
    cells: dict[_Cell, list[tuple[Record, Record]]] = defaultdict(list)
    latest = log.latest()
    for record in latest.values():
        plain = latest.get((*record.key[:4], PLAIN))
        if record.arm == PLAIN or plain is None:
            continue
        for kind, prompt in cells_of(record):
            cells[record.subject, record.temperature, record.arm, kind, prompt].append((plain, record))
    rows = [_row(key, pairs) for key, pairs in cells.items()]
    order = {kind: place for place, kind in enumerate(dict.fromkeys(record.kind for record in log.records))}
    models = subjects(log.records)
    rank = {(subject.model, subject.tier): place for place, subject in enumerate(models)}
    return sorted(
        (row for row in rows if row is not None),
        key=lambda row: (
            rank[row.model, row.tier],
            row.temperature,
            row.arm == CONTROL,
            row.arm,
            order.get(row.kind, 99),
            row.prompt or 0,
        ),
    )


def _row(key: _Cell, pairs: Sequence[tuple[Record, Record]]) -> Row | None:
    subject, temperature, arm, kind, prompt = key
    by_prompt: dict[int, list[tuple[Record, Record]]] = defaultdict(list)
    for plain, record in pairs:
        if plain.tokens > 0 and record.tokens > 0:
            by_prompt[record.prompt].append((plain, record))
    if not by_prompt:
        return None
    sums = [_summed(runs) for runs in by_prompt.values()]  # runs of a prompt are one observation
    result = speedup(sums)
    drafted = sum(record.drafted for _, record in pairs)
    plain_s, seconds = sum(pair.plain_s for pair in sums), sum(pair.seconds for pair in sums)
    return Row(
        subject.model, subject.tier, subject.n_params, temperature, kind, arm,
        n_prompts=len(by_prompt),
        plain_tokens_per_s=sum(pair.plain_tokens for pair in sums) / plain_s,
        tokens_per_s=sum(pair.tokens for pair in sums) / seconds,
        speedup=result.ratio, speedup_low=result.low, speedup_high=result.high,
        acceptance=sum(record.accepted for _, record in pairs) / drafted if drafted else None,
        identical=sum(plain.digest == record.digest for plain, record in pairs),
        answers=len(pairs),
        first_token_ratio=sum(p.first_token_s for p, _ in pairs) / sum(r.first_token_s for _, r in pairs),
        shares=_shares([record for _, record in pairs]),
        prompt=prompt,
    )  # fmt: skip


def _summed(runs: Sequence[tuple[Record, Record]]) -> Pair:
    return Pair(
        sum(plain.tokens for plain, _ in runs),
        sum(plain.seconds for plain, _ in runs),
        sum(record.tokens for _, record in runs),
        sum(record.seconds for _, record in runs),
    )


def _shares(records: Sequence[Record]) -> dict[str, float]:
    seconds: dict[str, float] = defaultdict(float)
    for record in records:
        for name, (_, _, spent) in record.arms.items():
            seconds[name] += spent
    total = sum(seconds.values()) or 1.0
    return {name: spent / total for name, spent in sorted(seconds.items())}


def won(log: Log, row: Row) -> dict[str, tuple[int, int, float]]:
    """By drafter: rounds, tokens, and the time that plain decoding takes for them less the time it took, as a share."""
    own = [
        record
        for record in log.latest().values()
        if (record.subject.model, record.subject.tier) == (row.model, row.tier)
        and record.temperature == row.temperature
        and row.kind in (record.kind, ALL)
    ]
    token_s = {record.key[:4]: per_token(record) for record in own if record.arm == PLAIN and record.tokens}
    auto = [record for record in own if record.arm == row.arm and record.key[:4] in token_s]
    whole = sum(token_s[record.key[:4]] * record.tokens for record in auto)
    found: dict[str, tuple[int, int, float]] = {}
    for record in auto:
        for name, (n_rounds, n_tokens, seconds) in record.arms.items():
            rounds, tokens, share = found.get(name, (0, 0, 0.0))
            won = (n_tokens * token_s[record.key[:4]] - seconds) / whole
            found[name] = rounds + n_rounds, tokens + n_tokens, share + won
    return dict(sorted(found.items()))


def per_token(record: Record) -> float:
    return record.seconds / record.tokens


def exit_round_s(costs: RowCosts, drafts: int, verified: int | None = None) -> float:
    """A round that makes so many drafts by the exit, and verifies the first `verified` of them: all by default."""
    if not drafts:
        return costs.plain_s
    drafted = (costs.first_draft_s or costs.exit_draft_s) + (drafts - 1) * costs.exit_draft_s
    all_kept = verified is None or verified == drafts
    kept = drafts if verified is None else verified
    return drafted + interpolate(costs.back_short_s if all_kept else costs.back_s, kept + 1)
