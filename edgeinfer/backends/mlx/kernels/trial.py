"""A first run of each kernel on this GPU against its twin: a kernel that does not compile, or differs, is not used."""

from __future__ import annotations

from collections.abc import Callable, Collection
from statistics import median
from time import perf_counter
from typing import TypeAlias

import mlx.core as mx

from edgeinfer.backends.mlx.kernels.attend import attend_kernel, attend_twin
from edgeinfer.backends.mlx.kernels.head import Head, head_top1_kernel, head_top1_twin
from edgeinfer.backends.mlx.kernels.launch import Launcher
from edgeinfer.backends.mlx.kernels.layout import RingLayout, Step
from edgeinfer.backends.mlx.kernels.matmul import Matrix, rows_matmul_kernel, rows_matmul_twin
from edgeinfer.backends.mlx.kernels.pack import pack_rows_kernel, pack_rows_twin, unpack_rows
from edgeinfer.window import WindowPolicy

__all__ = ["Product", "failing", "quicker"]

TOLERANCE = 2e-3  # of values of order one; int8 codes may differ by one step where a value lies between two
Product: TypeAlias = Callable[[], mx.array]
PAIRS, CALLS = 5, 8
CLEARLY = 0.95  # of the stock time
POLICY = WindowPolicy(window=256, sink=8, block=64, limit=4096)
LAYOUT = RingLayout(64, 8, mx.float32)


def failing(names: Collection[str], launch: Launcher) -> dict[str, str]:
    """Why a kernel cannot be used here, by name; a few milliseconds."""
    trials: dict[str, Callable[[Launcher], float]] = {
        "attend": _attend,
        "pack_rows": _pack,
        "head_top1": _head,
        "rows_matmul": _matmul,
    }
    reasons = {}
    for name in names:
        try:
            off = trials[name](launch)
        except Exception as error:  # what MLX raises when Metal refuses a source is not one class
            reasons[name] = str(error).splitlines()[0]
            continue
        if not off <= TOLERANCE:
            reasons[name] = f"differs from its twin by {off:.2g}"
    return reasons


def quicker(kernel: Product, stock: Product, clock: Callable[[], float] = perf_counter) -> bool:
    """Whether `kernel` beats `stock` clearly on this GPU: the median ratio of a few pairs, each a run of calls."""

    def seconds(call: Product) -> float:
        began = clock()
        mx.eval([call() for _ in range(CALLS)])
        return clock() - began

    seconds(kernel), seconds(stock)  # the first run compiles
    return median(seconds(kernel) / seconds(stock) for _ in range(PAIRS)) < CLEARLY


def _normal(*shape: int) -> mx.array:
    return mx.random.normal(shape, key=mx.random.key(len(shape)))


def _attend(launch: Launcher) -> float:
    rows = _normal(1, 2, POLICY.slots, 64)
    ring = pack_rows_twin(rows, rows * 0.5, LAYOUT)
    q, step = _normal(1, 4, 2, 64), Step(700, 2, POLICY, POLICY)
    got = attend_kernel(q, ring, LAYOUT, step, 0.125, launch)
    return _off(got, attend_twin(q, ring, LAYOUT, step, 0.125))


def _pack(launch: Launcher) -> float:
    k, v = _normal(1, 2, 3, 64) * 0.01, _normal(1, 2, 3, 64) * 0.02
    got = pack_rows_kernel(k, v, LAYOUT, launch)
    if got is None:
        return float("inf")
    pairs = zip(unpack_rows(got, LAYOUT), unpack_rows(pack_rows_twin(k, v, LAYOUT), LAYOUT), strict=True)
    return max(_off(one, other) for one, other in pairs)


def _head(launch: Launcher) -> float:
    codes, scales, biases = mx.quantize(_normal(300, 128), 64, 4)
    head, x = Head(codes, 4, scales, biases), _normal(1, 128)
    got, expected = head_top1_kernel(x, head, launch), head_top1_twin(x, head)
    if got is None or got.token.item() != expected.token.item():
        return float("inf")
    return _off(got.share, expected.share)


def _matmul(launch: Launcher) -> float:
    codes, scales, biases = mx.quantize(_normal(70, 640), 64, 4)
    matrix, x = Matrix(codes, scales, biases, 4, 64), _normal(3, 640)
    return _off(rows_matmul_kernel(x, matrix, launch), rows_matmul_twin(x, matrix)) / 25  # values of order 25


def _off(got: mx.array | None, expected: mx.array) -> float:
    return float("inf") if got is None else float(mx.abs(got - expected).max())
