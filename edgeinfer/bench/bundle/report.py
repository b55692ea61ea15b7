"""What was measured of a bundle, as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeinfer.bench.bundle.measure import Compared, KvCost, RowCost
from edgeinfer.bench.bundle.runtime import FIRST_PROMPT, Drafted, MemoryUse
from edgeinfer.bench.report import head, table
from edgeinfer.bench.statistics import Speedup
from edgeinfer.formats.bundle import Bundle


@dataclass(frozen=True, slots=True)
class InRuntime:
    """What only the phone runtime does. `first_token_s` counts from the start of opening."""

    first_token_s: float
    drafted: tuple[Drafted, ...]
    memory: MemoryUse | None


@dataclass(frozen=True, slots=True)
class Measured:
    """`rows` and `kv` are of the engine by itself."""

    opened_s: float
    compared: tuple[Compared, ...]
    rows: tuple[RowCost, ...] = ()
    kv: tuple[KvCost, ...] = ()
    runtime: InRuntime | None = None


def markdown(bundle: Bundle, measured: Measured, command: Sequence[str], runs: int) -> str:
    from edgeinfer.device import detect

    manifest = bundle.manifest
    where = " in edgeinfer-run" if measured.runtime else ""
    text = head(f"Speed of the bundle {manifest.name}, {manifest.tier}{where}", command, detect(), manifest.exporter)
    text += f"\nOpened in {measured.opened_s:.2f} s from packed weights.\n"
    if measured.runtime:
        first_ms = 1e3 * measured.runtime.first_token_s
        text += f"From there to the first token of an answer to {FIRST_PROMPT} tokens: {first_ms:.0f} ms in all.\n"
    if measured.compared:
        text += (
            f"\nMilliseconds of one forward, medians of {runs} pairs, one in each program in turn. The ratio is "
            "our speed over that of the stock program, with its 95 % interval.\n\n"
            + table(["", "threads", "ours", "stock", "ratio"], [_row(one) for one in measured.compared])
        )
    if measured.rows:
        text += "\nRows of one forward at position 200:\n\n" + _row_costs(measured.rows)
    if measured.kv:
        rows = [[one.kv_type, str(one.n_threads), f"{one.seconds * 1e3:.2f}", _ratio(one.ratio)] for one in measured.kv]
        text += "\nDecoding at position 1000 by the type of K and V, beside float32 in turn:\n\n"
        text += table(["K/V", "threads", "ms", "speed over f32"], rows)
    return text + "".join(_in_runtime(measured.runtime)) if measured.runtime else text


def _row(one: Compared) -> list[str]:
    return [
        one.what,
        str(one.n_threads),
        f"{one.ours_s * 1e3:.2f}",
        f"{one.stock_s * 1e3:.2f}",
        _ratio(one.ratio),
    ]


def _row_costs(costs: Sequence[RowCost]) -> str:
    one_row = {cost.n_threads: cost.seconds for cost in costs if cost.n_rows == 1}
    rows = []
    for cost in costs:
        share = cost.seconds / one_row[cost.n_threads]
        rows.append([str(cost.n_threads), str(cost.n_rows), f"{cost.seconds * 1e3:.2f}", f"{share:.2f}"])
    return table(["threads", "rows", "ms", "of one row"], rows)


def _in_runtime(found: InRuntime) -> Iterator[str]:
    if found.drafted:
        rows = [
            [
                one.kind,
                str(one.n_prompts),
                _ratio(one.ratio),
                f"{one.n_accepted / one.n_drafted:.2f}" if one.n_drafted else "",
                f"{one.n_equal}/{one.n_prompts}",
            ]
            for one in found.drafted
        ]
        yield "\nGreedy answers with drafts (`auto`) and without, one thread, speed of the tokens after the first:\n\n"
        yield table(["prompts", "answers", "auto over off", "acceptance", "same tokens"], rows)
    if found.memory:
        yield "\nMB of the process with one session in use, and what `edgeinfer_estimate` says:\n\n"
        yield table(["", "measured", "estimate", "error"], _memory_rows(found.memory))


def _memory_rows(memory: MemoryUse) -> list[list[str]]:
    pairs = {
        "resident": (memory.resident, memory.estimated_resident),
        "dirty": (memory.dirty, memory.estimated_dirty),
    }
    return [
        [name, f"{here / 1e6:.1f}", f"{estimate / 1e6:.1f}", f"{100 * (estimate / here - 1):+.1f}%"]
        for name, (here, estimate) in pairs.items()
    ]


def _ratio(ratio: Speedup) -> str:
    return f"{ratio.ratio:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"
