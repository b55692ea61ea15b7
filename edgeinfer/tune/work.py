"""Decides how much text is written and how many steps are taught in the given time."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from edgeinfer.errors import NoPlanError, UsageError
from edgeinfer.kept import read_kept, write_whole
from edgeinfer.shape import ModelShape
from edgeinfer.tune.expect import layer_params

__all__ = [
    "KeptWork",
    "Pace",
    "Sizes",
    "Work",
    "fit_memory",
    "make_work",
    "read_work",
    "teaching_bytes",
    "write_work",
]

_FILE: Final = "work.json"
_TEXT_SHARE: Final = 1 / 3  # of the time; on an H200, half an hour gives about 60 M tokens
_MOST_PASSES: Final = 8
_LEAST_STEPS: Final = 40
_TORCH_BYTES: Final = 600_000_000  # the interpreter with torch
_OPTIMIZER_BYTES: Final = 16  # a taught parameter, its gradient and AdamW's two moments, in float32
_ACTIVATIONS: Final = 24  # values of width `hidden` kept for the backward pass, a position and depth


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of the batches. `n_tokens` is the length of a conversation."""

    n_tokens: int
    part_rows: int  # conversations that are written side by side
    step_rows: int  # conversations of a step

    @property
    def part_tokens(self) -> int:
        return self.n_tokens * self.part_rows

    @property
    def step_positions(self) -> int:
        return self.n_tokens * self.step_rows


@dataclass(frozen=True, slots=True)
class Pace:
    """Measured on a short run. `s_per_step` is by kind of draft."""

    s_per_part: float
    s_per_step: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Work:
    """Part 0 of the text is held out; the others are taught. `n_steps` is by kind."""

    sizes: Sizes
    n_parts: int
    n_steps: Mapping[str, int]

    def seconds(self, pace: Pace) -> float:
        steps = sum(n * pace.s_per_step[kind] for kind, n in self.n_steps.items())
        return self.n_parts * pace.s_per_part + steps


def make_work(sizes: Sizes, pace: Pace, minutes: float, *, n_given_rows: int = 0) -> Work:
    """The work that fills `minutes`. If `n_given_rows` conversations are given, none is written.

    Raises UsageError, with the minutes that are needed, if the time is too short to teach anything.
    """
    seconds = 60.0 * minutes
    n_parts = 0 if n_given_rows else max(2, round(seconds * _TEXT_SHARE / pace.s_per_part))
    left = (seconds - n_parts * pace.s_per_part) / len(pace.s_per_step)
    n_rows = n_given_rows or (n_parts - 1) * sizes.part_rows
    most = max(_LEAST_STEPS, _MOST_PASSES * n_rows // sizes.step_rows)
    n_steps = {kind: min(most, int(left / s_per_step)) for kind, s_per_step in pace.s_per_step.items()}
    if min(n_steps.values()) < _LEAST_STEPS:
        needed = _LEAST_STEPS * max(pace.s_per_step.values()) * len(pace.s_per_step)
        needed = max(needed / (1 - _TEXT_SHARE), needed + 2 * pace.s_per_part)
        raise UsageError(
            f"{minutes:g} minutes are {max(0, min(n_steps.values()))} steps; at least {_LEAST_STEPS} are needed",
            hint=f"--minutes {math.ceil(needed * 1.2 / 60)}",
        )
    return Work(sizes, n_parts, n_steps)


def teaching_bytes(shape: ModelShape, sizes: Sizes, *, n_ranked: int, n_depths: int, value_bytes: int) -> int:
    """Peak memory of the process that writes and teaches. `value_bytes` is the width of the model's values."""
    weights = shape.n_params * (4 + value_bytes)  # read in float32, one tensor at a time kept in the model's type
    kv = sum(2 * group.n_layers * group.n_kv_heads * group.head_dim for group in shape.kv)
    writing = sizes.part_tokens * kv * value_bytes + sizes.part_rows * shape.n_vocab * 24
    heads = shape.n_vocab * (value_bytes + 8) + n_ranked * (8 + (1 + (n_depths - 1) / 2) * 12)
    layers = n_depths * (_ACTIVATIONS * shape.hidden + 6 * shape.n_ffn) * 4
    teaching = sizes.step_positions * (heads + layers) + 3 * layer_params(shape) * _OPTIMIZER_BYTES
    return int(_TORCH_BYTES + weights + max(writing, teaching))


def fit_memory(
    shape: ModelShape, sizes: Sizes, budget_bytes: int, *, n_ranked: int, n_depths: int, value_bytes: int
) -> tuple[Sizes, int]:
    """The largest batches that fit, and the bytes that they take. Raises NoPlanError where none fits."""
    while True:
        needed = teaching_bytes(shape, sizes, n_ranked=n_ranked, n_depths=n_depths, value_bytes=value_bytes)
        if needed <= budget_bytes:
            return sizes, needed
        if sizes.step_rows == 1 and sizes.part_rows == 1:
            raise NoPlanError(
                f"teaching takes {needed / 1e9:.1f} GB with the smallest batches, and this device can give "
                f"{max(0, budget_bytes) / 1e9:.1f} GB",
                hint="teach a smaller model, or on a device with more memory",
            )
        sizes = replace(sizes, step_rows=max(1, sizes.step_rows // 2), part_rows=max(1, sizes.part_rows // 2))


@dataclass(frozen=True, slots=True)
class KeptWork:
    """Work that an earlier run began."""

    work: Work
    seconds: float  # that it was expected to take
    value_type: str  # of the model's values, by torch's name


def read_work(folder: Path, settings: Mapping[str, object]) -> KeptWork | None:
    """The work that was begun in `folder`, or None. Raises UsageError if it was begun with other settings."""
    kept = read_kept(folder / _FILE)
    if not kept:
        return None
    other = [name for name, value in settings.items() if kept["settings"].get(name) != value]
    if other:
        raise UsageError(
            f"{folder} holds unfinished teaching with another {' and '.join(other)}",
            hint="repeat that command to continue it, or delete the folder",
        )
    return KeptWork(Work(Sizes(**kept["sizes"]), kept["n_parts"], kept["n_steps"]), kept["seconds"], kept["value_type"])


def write_work(folder: Path, settings: Mapping[str, object], kept: KeptWork) -> None:
    work = kept.work
    value = {
        "settings": settings,
        "sizes": asdict(work.sizes),
        "n_parts": work.n_parts,
        "n_steps": dict(work.n_steps),
        "seconds": kept.seconds,
        "value_type": kept.value_type,
    }
    write_whole(folder / _FILE, json.dumps(value))
