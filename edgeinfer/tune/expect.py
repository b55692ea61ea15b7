"""What a draft is worth on a device: agreement by depth and measured row costs make an expected speed-up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from edgeinfer.shape import ModelShape

__all__ = [
    "KNOWN_AGREEMENT",
    "WORTHWHILE",
    "Expected",
    "best_depth",
    "deepened",
    "draft_cost",
    "expected_speedup",
    "layer_params",
]

# Agreement by depth of drafts that were taught to SmolLM2-135M-Instruct in 5 and 7 minutes on a GPU, on answers to
# prompts that they were not taught on. A quarter of an hour gives more: benchmarks/models/drafts/README.md.
KNOWN_AGREEMENT: Final[Mapping[str, tuple[float, ...]]] = {
    "exit": (0.49, 0.49, 0.49, 0.49),
    "feature": (0.67, 0.69, 0.72, 0.72),
}
WORTHWHILE: Final = 1.03  # a smaller gain is lost in what this estimate leaves out
_MAX_DEPTH: Final = 4


@dataclass(frozen=True, slots=True)
class Expected:
    """`speedup` over plain decoding with `depth` drafts a round; 1.0 and 0 where no depth pays."""

    speedup: float
    depth: int


def expected_speedup(
    agreement: Sequence[float], depth: int, row_cost: Callable[[int], float], draft_cost: float
) -> float:
    """Tokens of a round over its time, a plain round being 1 token and 1 unit of time.

    `agreement[d]` is the chance of draft d + 1 after right ones, `row_cost(n)` the time to verify n rows.
    """
    tokens, reached = 1.0, 1.0
    for chance in agreement[:depth]:
        reached *= chance
        tokens += reached
    return tokens / (row_cost(depth + 1) + depth * draft_cost)


def best_depth(
    agreement: Sequence[float], row_cost: Callable[[int], float], draft_cost: float, *, max_rows: int = _MAX_DEPTH + 1
) -> Expected:
    """The best fixed depth, without a gate and without prompt lookup: what a draft brings by itself, at least."""
    found = [
        Expected(expected_speedup(agreement, depth, row_cost, draft_cost), depth)
        for depth in range(1, min(len(agreement), max_rows - 1) + 1)
    ]
    best = max(found, key=lambda one: one.speedup, default=Expected(1.0, 0))
    return best if best.speedup > 1.0 else Expected(1.0, 0)


def deepened(agreement: Sequence[float]) -> tuple[float, ...]:
    """`agreement` to the depth of four; depths that were not judged count as the last one that was."""
    return (*agreement, *[agreement[-1]] * (_MAX_DEPTH - len(agreement)))


def layer_params(shape: ModelShape) -> int:
    """Parameters of one Llama layer of the model's widths."""
    group = shape.kv[0]
    attention = 2 * shape.n_heads * group.head_dim + 2 * group.n_kv_heads * group.head_dim
    return shape.hidden * (attention + 3 * shape.n_ffn)


def draft_cost(shape: ModelShape, kind: str, *, exit_layer: int, n_ranked: int) -> float:
    """Time of one draft in plain rounds, by the weights that it reads: input, layer and head."""
    before = exit_layer * layer_params(shape) if kind == "exit" else 5 * shape.hidden**2
    return (layer_params(shape) + before + n_ranked * shape.hidden) / shape.n_active_params
