"""Measures what the parts of a round take, on a scratch cache before the first answer, and keeps it on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, time
from typing import Final

from edgeinfer.decode.policy.costs import RowCosts
from edgeinfer.decode.policy.gate import confidence
from edgeinfer.device.load import is_busy
from edgeinfer.kept import read_kept, write_kept
from edgeinfer.paths import cache_folder
from edgeinfer.prefill import prefill
from edgeinfer.protocols import Cache, Model
from edgeinfer.window import MIN_BLOCK, WindowPolicy

__all__ = ["CostStore", "calibrate", "cost_key"]

# Time that a start may take. No report set these values.
BUDGET_S: Final = 0.5
MAX_OVERRUN: Final = 1.4  # times the budget; then incomplete measurements are enough
QUICK_ROUND_S: Final = 0.01  # the engine's graph building is visible in a plain round faster than this

# A quick plain round takes 10 to 25 % longer after rounds of several rows, and is itself again after about eight: its
# weights had left the caches (docs/phone-speculation.md). Drafts must pay beside plain rounds that are undisturbed.
N_SETTLING: Final = 8
N_TIMED_PLAIN: Final = 6

# The scratch cache is filled up to one of these lengths, as far as the time allows: over quantized K/V, attention for
# several rows takes longer in a long context.
CONTEXT_LENGTHS: Final = range(24, 240, 24)
MAX_FILL_S: Final = 0.25

# Rows that are timed, and in which order: a run that is cut short has seen the most useful ones. From one and four rows
# alone, two would be interpolated: at F16 they cost 1.25 and four 2.1, and an exit draft seemed not to pay.
ROW_COUNTS: Final = (1, 2, 3, 4, 6, 8, 12, 16)
DRAFTED_ROW_COUNTS: Final = (1, 2, 4, 8)
ROW_ORDER: Final = (1, 2, 4, 8, 16, 3, 6, 12)

KEEP_S: Final = 7 * 24 * 3600.0  # a machine changes: engine settings, cooling, other programs
KEEP_BUSY_S: Final = 600.0  # measured while others used the machine: enough for starts in a row
FORMAT_VERSION: Final = 7


@dataclass(frozen=True, slots=True)
class _Trial:
    """One kind of round: `rows` verified after `drafts` drafts."""

    rows: int
    drafts: int


_PLAIN: Final = _Trial(1, 0)


def calibrate(
    model: Model, *, max_rows: int, budget_s: float = BUDGET_S, clock: Callable[[], float] = perf_counter
) -> RowCosts:
    """Time verify and drafted rounds in turn until `budget_s` has passed, and plain rounds before and after them; where
    they are slow, among them. Keep the lower quartile of each: other processes can only make a round slower.

    On a slow model or a busy machine it continues until every kind of round was timed once with one and with several
    rows, which takes about twelve tokens. Numbers of rows that were not timed are interpolated.
    """
    policy = WindowPolicy(window=4 * MIN_BLOCK, sink=0, block=MIN_BLOCK, limit=4 * MIN_BLOCK)
    cache = model.new_cache(policy)
    try:
        n_vocab = model.tokenizer.n_vocab
        _fill(cache, n_vocab, clock)
        trials = _trials(max_rows, drafts=bool(model.drafts_with))
        verify_s: dict[_Trial, list[float]] = {trial: [] for trial in (_PLAIN, *trials)}
        draft_s: list[list[float]] = []
        began = clock()
        verify_s[_PLAIN] += _plain_rounds(cache, clock)
        if not trials:
            return _costs(verify_s, draft_s)
        is_quick = verify_s[_PLAIN][0] < QUICK_ROUND_S
        if not is_quick:
            trials = [one for at in range(0, len(trials) + 1, 4) for one in (_PLAIN, *trials[at : at + 4])]
        while True:
            for trial in trials:
                drafted, verified = _time_rounds(cache, trial, clock, warm=is_quick)
                draft_s += drafted
                verify_s[trial] += verified
                spent = clock() - began
                if (spent > budget_s and all(verify_s.values())) or (
                    spent > MAX_OVERRUN * budget_s and _enough(verify_s)
                ):
                    if is_quick:
                        verify_s[_PLAIN] += _plain_rounds(cache, clock)
                    return _costs(verify_s, draft_s)
    finally:
        cache.close()


def _plain_rounds(cache: Cache, clock: Callable[[], float]) -> list[float]:
    """Seconds of plain rounds after each other. Of slow ones, the second: engines build a graph for the first."""
    times: list[float] = []
    while len(times) < N_SETTLING + N_TIMED_PLAIN:
        _, verified = _time(cache, _PLAIN, clock)
        times.append(verified)
        if len(times) == 2 and verified >= QUICK_ROUND_S:
            return times[1:]
    return times[N_SETTLING:]


def _fill(cache: Cache, n_vocab: int, clock: Callable[[], float]) -> None:
    began = clock()
    for length in CONTEXT_LENGTHS:
        prefill(cache, [index * 37 % n_vocab for index in range(cache.length, length)])
        if clock() - began > MAX_FILL_S:
            return


def _trials(max_rows: int, *, drafts: bool) -> list[_Trial]:
    """The most useful first."""
    rounds = [_Trial(rows, 0) for rows in _up_to(max_rows, ROW_COUNTS) if rows > 1]
    if drafts:
        counts = _up_to(max_rows, DRAFTED_ROW_COUNTS)
        rounds += [_Trial(rows, rows - short) for rows in counts for short in (0, 1) if rows > short]
    return sorted(
        rounds, key=lambda trial: (ROW_ORDER.index(trial.rows) if trial.rows in ROW_ORDER else 2, trial.drafts)
    )


def _up_to(max_rows: int, counts: Sequence[int]) -> list[int]:
    """The `counts` that are allowed, and the largest allowed one, which is not extrapolated."""
    return sorted({*(rows for rows in counts if rows <= max_rows), min(max_rows, counts[-1])})


def _enough(verify_s: Mapping[_Trial, Sequence[float]]) -> bool:
    """Whether every kind of round was timed with one and with several rows."""
    seen = {(trial.rows > 1, trial.rows - trial.drafts if trial.drafts else None) for trial in verify_s}
    return seen == {
        (trial.rows > 1, trial.rows - trial.drafts if trial.drafts else None)
        for trial, times in verify_s.items()
        if times
    }


def _time_rounds(
    cache: Cache, trial: _Trial, clock: Callable[[], float], *, warm: bool
) -> tuple[list[list[float]], list[float]]:
    """Seconds of the drafts of each round, and of each verify.

    With `warm`, an untimed round goes first, because engines reuse the graph for a number of rows. A plain round is
    timed twice, because all others are relative to it.
    """
    times = [_time(cache, trial, clock) for _ in range(warm + 1 + (trial == _PLAIN))]
    timed = times[warm:]
    return [drafted for drafted, _ in timed], [verified for _, verified in timed]


def _time(cache: Cache, trial: _Trial, clock: Callable[[], float]) -> tuple[list[float], float]:
    tokens = list(range(5, 5 + trial.rows))
    drafted: list[float] = []
    step = cache.begin(trial.rows)
    try:
        for token in tokens[: trial.drafts]:
            began = clock()
            row = step.draft(token)
            confidence(row.numpy(), row.argmax())
            drafted.append(clock() - began)
        began = clock()
        for row in step.verify(tokens):
            row.argmax()
        return drafted, clock() - began
    finally:
        step.rollback()


def _costs(verify_s: Mapping[_Trial, Sequence[float]], draft_s: Sequence[Sequence[float]]) -> RowCosts:
    def of(missing: int | None) -> dict[int, float]:
        """Seconds by rows, for rounds with `missing` fewer drafts than rows; None: rounds without drafts."""
        return {
            trial.rows: _quartile(times)
            for trial, times in verify_s.items()
            if times
            and (trial.drafts == 0 if missing is None else trial.drafts > 0 and trial.rows - trial.drafts == missing)
        }

    first = [drafted[0] for drafted in draft_s if drafted]
    if not first:
        return RowCosts(of(None))
    deeper = [seconds for drafted in draft_s for seconds in drafted[1:]]
    return RowCosts(
        of(None),
        of(0),
        {1: of(None)[1], **of(1)},
        exit_draft_s=_quartile(deeper or first),
        first_draft_s=_quartile(first),
    )


def _quartile(times: Sequence[float]) -> float:
    return sorted(times)[len(times) // 4]


def cost_key(*facts: object) -> str:
    """The key of the costs of one model file, engine version, machine and cache setting."""
    return hashlib.sha256(json.dumps([FORMAT_VERSION, *map(str, facts)]).encode()).hexdigest()[:24]


class CostStore:
    """Costs on disk, one small file each. They can be deleted at any time."""

    def __init__(self, folder: Path | None = None) -> None:
        base = cache_folder()
        self._folder = folder or (base / "costs" if base else None)

    def _file(self, key: str) -> Path | None:
        return self._folder / f"{key}.json" if self._folder else None

    def load(self, key: str) -> RowCosts | None:
        """None if nothing usable is stored: it is missing, unreadable, or too old."""
        stored = read_kept(self._file(key))
        try:
            keep_s = KEEP_BUSY_S if stored["busy"] else KEEP_S
            if not 0 <= time() - float(stored["measured"]) <= keep_s:
                return None
            tables = [{int(n): float(s) for n, s in stored[name].items()} for name in ("verify", "back", "back_short")]
            drafts = [float(stored[name]) for name in ("exit_draft", "first_draft", "model_draft")]
            costs = RowCosts(tables[0], tables[1], tables[2], *drafts)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
        return (
            costs if costs.verify_s.get(1, 0.0) > 0 and all(s > 0 for table in tables for s in table.values()) else None
        )

    def save(self, key: str, costs: RowCosts, *, busy: bool | None = None) -> None:
        """`busy`: other programs used the machine meanwhile; None: judged by its load now.

        Best effort: if the cache cannot be written, the next start measures again.
        """
        stored = {
            "measured": time(),
            "busy": is_busy() if busy is None else busy,
            "verify": dict(costs.verify_s),
            "back": dict(costs.back_s),
            "back_short": dict(costs.back_short_s),
            "exit_draft": costs.exit_draft_s,
            "first_draft": costs.first_draft_s,
            "model_draft": costs.model_draft_s,
        }
        write_kept(self._file(key), stored)
