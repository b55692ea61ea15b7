"""10,000 picks of the sampler, and the bits of exp and log, as a table that Python and C++ must both give.

Rows, contexts and settings come from integers and IEEE arithmetic, so that they are the same everywhere.
`python -m tests.picks` rewrites the table. Every seeded answer of every user changes with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from edgeinfer.decode import arithmetic
from edgeinfer.decode.noise import uniform
from edgeinfer.decode.sampler import Sampler
from edgeinfer.types import GREEDY, Sampling

Function: TypeAlias = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]

TABLE = Path(__file__).with_name("data") / "picks.json"
N_PICKS = 250  # of each setting
N_ROWS = 40
SETTINGS = (
    GREEDY,
    Sampling(),
    Sampling(seed=-5),
    Sampling(temperature=0.001, seed=1),
    Sampling(temperature=0.3, seed=2),
    Sampling(temperature=1.7, seed=3),
    Sampling(temperature=100.0, seed=4),
    Sampling(min_p=0.02, seed=5),
    Sampling(min_p=0.5, seed=6),
    Sampling(min_p=1.0, seed=7),
    *(Sampling(temperature=0.8, top_k=k, seed=k) for k in (1, 2, 20, 40, 300, 20_000)),
    *(Sampling(temperature=0.7, top_p=p, seed=int(1000 * p)) for p in (1e-6, 0.1, 0.5, 0.9, 0.95, 0.999)),
    *(Sampling(temperature=t, top_p=0.9, seed=int(10 * t)) for t in (0.2, 1.0, 1.5, 4.0)),
    Sampling(temperature=0.7, top_k=40, top_p=0.95, repeat_penalty=1.1, seed=1 << 63),
    Sampling(temperature=0.6, top_k=20, top_p=0.95, seed=8),
    Sampling(temperature=1.2, top_k=100, top_p=0.8, min_p=0.05, seed=9),
    Sampling(temperature=1.0, top_p=0.9, min_p=0.1, seed=10),
    Sampling(repeat_penalty=1.3, seed=11),
    Sampling(repeat_penalty=0.8, repeat_last_n=5, seed=12),
    Sampling(presence_penalty=1.5, seed=13),
    Sampling(frequency_penalty=0.7, seed=14),
    Sampling(presence_penalty=-2.0, frequency_penalty=-0.3, top_k=10, seed=15),
    Sampling(temperature=0.9, repeat_penalty=1.2, presence_penalty=0.4, frequency_penalty=0.1, top_p=0.9, seed=16),
    Sampling(temperature=0.0, repeat_penalty=1.5),
    Sampling(temperature=0.0, presence_penalty=0.5, frequency_penalty=0.5),
    Sampling(logit_bias=((3, 4.5), (40, -100.0)), seed=17),
    Sampling(temperature=0.5, top_p=0.8, logit_bias=((7, 2.25),), seed=18),
)
N_CASES = N_PICKS * len(SETTINGS)
_SIZES = (60, 1000, 4000, 130, 20_011)  # of the vocabulary


@dataclass(frozen=True)
class Case:
    sampling: Sampling
    row_number: int
    row: npt.NDArray[np.float32]
    index: int
    context: list[int]


def row_of(number: int) -> npt.NDArray[np.float32]:
    """Logits [V] with a bell-shaped distribution. Some rows are steps with many ties, some have logits of -inf."""
    ids = np.arange(_SIZES[number % len(_SIZES)])
    bell = np.sum([uniform(-1 - part, number, ids) for part in range(4)], axis=0) - 2.0
    row = (bell * (2.0 + 3.0 * (number % 4))).astype(np.float32)
    if number % 7 == 3:
        row = np.rint(row * 2).astype(np.float32)
    if number % 11 == 5:
        row[::3] = -np.inf
    return row


def cases() -> Iterator[Case]:
    rows = [row_of(number) for number in range(N_ROWS)]
    for setting, sampling in enumerate(SETTINGS):
        for index in range(N_PICKS):
            number = (setting + index) % N_ROWS
            row = rows[number]
            skewed = uniform(99, index, np.arange(80)) ** 2
            yield Case(sampling, number, row, index, (skewed * len(row)).astype(int).tolist())


def by_python(case: Case) -> int:
    return Sampler(case.sampling).pick(case.row, case.index, case.context)


def differing(
    pick: Callable[[Case], int] = by_python, exp: Function = arithmetic.exp, log: Function = arithmetic.log
) -> list[str]:
    """Differences from the table: names of functions, or numbers of picks."""
    table = json.loads(TABLE.read_text())
    functions = [name for name, found in _digests(exp, log).items() if found != table[name]]
    return functions or [str(number) for number, case in enumerate(cases()) if pick(case) != table["picks"][number]]


def as_bytes() -> bytes:
    """The cases, and numbers for exp and log, as tests/runtime/picks_check.cpp reads them."""
    rows = [row_of(number) for number in range(N_ROWS)]
    out = [_integers(N_ROWS)]
    for row in rows:
        out += [_integers(len(row)), row.tobytes()]
    listed = list(cases())
    out.append(_integers(len(listed)))
    for case in listed:
        how = case.sampling
        penalties = (how.repeat_penalty, how.presence_penalty, how.frequency_penalty)
        out.append(np.array([how.temperature, how.top_p, how.min_p, *penalties]).tobytes())
        out.append(_integers(how.top_k, how.repeat_last_n, how.seed, len(how.logit_bias)))
        out += [_integers(token) + np.array([bias]).tobytes() for token, bias in how.logit_bias]
        out.append(
            _integers(case.row_number, case.index, len(case.context)) + np.array(case.context, np.int32).tobytes()
        )
    numbers = uniform(-9, 0, np.arange(20_000))
    return b"".join([*out, _integers(len(numbers)), numbers.tobytes()])


def wrong_lines(lines: Sequence[str]) -> list[str]:
    """The differences in what tests/runtime/picks_check.cpp printed for `as_bytes`."""
    x = uniform(-9, 0, np.arange(20_000))
    bits = [values.view(np.uint64).tolist() for values in (arithmetic.exp((x - 0.5) * 1300), arithmetic.log(x))]
    expected = [
        *map(str, json.loads(TABLE.read_text())["picks"]),
        *(f"{a:x} {b:x}" for a, b in zip(*bits, strict=True)),
    ]
    return [line for line, wanted in zip(lines, expected, strict=True) if line != wanted]


def _integers(*values: int) -> bytes:
    return np.array([value & (1 << 64) - 1 for value in values], np.uint64).tobytes()


def _digests(exp: Function, log: Function) -> dict[str, str]:
    """A digest of the bits of both functions, for numbers of all sizes."""
    x = uniform(-9, 0, np.arange(20_000))
    wide = (x - 0.5) * 1300
    values = {"exp": exp(np.concatenate([wide, x - 0.5])), "log": log(np.concatenate([x, 1 + wide**2, 1 - x * 1e-12]))}
    return {name: hashlib.sha256(value.tobytes()).hexdigest() for name, value in values.items()}


def _write() -> None:
    picks = [by_python(case) for case in cases()]
    lines = [", ".join(map(str, picks[at : at + 25])) for at in range(0, len(picks), 25)]
    head = json.dumps(_digests(arithmetic.exp, arithmetic.log), indent=0)[1:-2]
    TABLE.write_text("{" + head + ',\n"picks": [\n' + ",\n".join(lines) + "\n]}\n")


if __name__ == "__main__":
    _write()
