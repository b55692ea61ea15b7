"""Times each Metal kernel against its twin on this Mac, at the shapes of real models.

Kernel and twin run in turn, on enough layers that no cache holds their data; the ratio is the median over pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgeinfer.bench.kernel_shapes import SHAPES, SINK, WINDOWS, TimedShape
from edgeinfer.bench.report import check_outputs, head, print_report, table
from edgeinfer.errors import BackendError
from edgeinfer.named_files import write_text

__all__ = ["Timing", "add_arguments", "run"]

LAYERS_BYTES = 256 << 20  # larger than the last-level cache of any M-series chip
PAIRS = 15
ROWS = (1, 5)  # rows when decoding, and when verifying four drafts
PRODUCT_ROWS = (2, 5, 8)


@dataclass(frozen=True, slots=True)
class Timing:
    """One kernel at one shape. Times are of one layer's call, medians over pairs."""

    kernel: str
    shape: str
    n_bytes: int  # read by the kernel
    kernel_us: float
    twin_us: float
    ratio: float  # kernel / twin, the median of the pairs' ratios
    difference: float  # largest |kernel - twin|; for the head, of the probability


@dataclass(frozen=True, slots=True)
class Case:
    """`kernel` and `twin` take a layer's number and give arrays to evaluate."""

    kernel: str
    shape: str
    n_bytes: int
    n_layers: int
    run_kernel: Callable[[int], Any]
    run_twin: Callable[[int], Any]
    difference: Callable[[], float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="the first model, windows of 4k, three pairs")
    parser.add_argument("--json", action="store_true", help="one JSON object per kernel on stdout")
    parser.add_argument(
        "--out", type=Path, metavar="FILE.md", help="write the report, for example to docs/metal-kernels.md"
    )


def run(args: argparse.Namespace) -> int:
    check_outputs(args.out)
    mx = _metal()
    timings = []
    for case in _cases(mx, quick=args.quick):
        timings.append(_measure(mx, case, 3 if args.quick else PAIRS))
        if args.json:
            print_report(json.dumps(asdict(timings[-1])) + "\n")
    if args.out:
        write_text(args.out, _report(mx, args, timings))
    elif not args.json:
        print_report(_table(timings))
    return 0


def _metal() -> Any:
    try:
        import mlx.core as mx
    except ImportError as error:
        raise BackendError("MLX is not installed", hint="pip install 'edgeinfer[mlx]'") from error
    if not mx.metal.is_available():
        raise BackendError("the kernels need Metal, which this device lacks", hint="run it on Apple silicon")
    return mx


def _cases(mx: Any, *, quick: bool) -> Iterator[Case]:
    for shape in SHAPES[:1] if quick else SHAPES:
        for window in WINDOWS[:1] if quick else WINDOWS:
            for bits in (16, 8, 4):
                for n_rows in ROWS:
                    yield _attend_case(mx, shape, window, bits, n_rows)
        yield _pack_case(mx, shape)
        for bits in (16, 8, 6, 4):
            yield _head_case(mx, shape, bits)
        for bits in (8, 4):
            for n_rows in PRODUCT_ROWS:
                yield _product_case(mx, shape, bits, n_rows)


def _attend_case(mx: Any, shape: TimedShape, window: int, bits: Any, n_rows: int) -> Case:
    from edgeinfer.backends.mlx.kernels import KERNELS, Kernels, RingLayout, Step
    from edgeinfer.window import WindowPolicy

    policy = WindowPolicy(window=window, sink=SINK, block=window // 8, limit=1 << 20)
    layout = RingLayout(shape.head_dim, bits, mx.float16)
    size = (1, shape.n_kv_heads, policy.slots, shape.head_dim)
    n_bytes = layout.row_bytes * shape.n_kv_heads * policy.slots
    n_layers = max(2, LAYERS_BYTES // n_bytes)
    twin, kernels = Kernels(), Kernels(frozenset(KERNELS))
    rings = [twin.pack_rows(_random(mx, size), _random(mx, size), layout) for _ in range(n_layers)]
    q = _random(mx, (1, shape.n_heads, n_rows, shape.head_dim))
    step = Step(3 * window + 17, n_rows, policy, policy)
    mx.eval(rings, q, step.mask())
    scale = shape.head_dim**-0.5

    def attend(chosen: Any) -> Callable[[int], Any]:
        return lambda layer: chosen.attend(q, rings[layer], layout, step, scale)

    def difference() -> float:
        return float(mx.abs(attend(kernels)(0) - attend(twin)(0)).max())

    label = f"{shape.name}, {window // 1024}k, {bits} bits, {n_rows} rows"
    return Case("attend", label, n_bytes, n_layers, attend(kernels), attend(twin), difference)


def _pack_case(mx: Any, shape: TimedShape) -> Case:
    from edgeinfer.backends.mlx.kernels import KERNELS, Kernels, RingLayout, unpack_rows

    layout = RingLayout(shape.head_dim, 8, mx.float16)
    k, v = (_random(mx, (1, shape.n_kv_heads, 1, shape.head_dim)) for _ in range(2))
    twin, kernels = Kernels(), Kernels(frozenset(KERNELS))

    def difference() -> float:
        pairs = [unpack_rows(chosen.pack_rows(k, v, layout), layout) for chosen in (kernels, twin)]
        return max(float(mx.abs(one - other).max()) for one, other in zip(*pairs, strict=True))

    return Case(
        "pack_rows",
        f"{shape.name}, 8 bits, 1 row",
        k.nbytes + v.nbytes,
        64,
        lambda _: kernels.pack_rows(k, v, layout),
        lambda _: twin.pack_rows(k, v, layout),
        difference,
    )


def _head_case(mx: Any, shape: TimedShape, bits: int) -> Case:
    from edgeinfer.backends.mlx.kernels import KERNELS, Head, Kernels

    table_ = _random(mx, (shape.n_vocab, shape.width)) * 0.05
    norm = _random(mx, (shape.width,))
    if bits == 16:
        head_ = Head(table_, 16, norm_weight=norm)
    else:
        codes, scales, biases = mx.quantize(table_, 64, bits)
        head_ = Head(codes, bits, scales, biases, 64, norm)
    n_bytes = sum(array.nbytes for array in (head_.table, head_.scales, head_.biases) if array is not None)
    x = _random(mx, (1, shape.width))
    twin, kernels = Kernels(), Kernels(frozenset(KERNELS))

    def top(chosen: Any) -> Callable[[int], Any]:
        def call(_: int) -> Any:
            top1 = chosen.head_top1(x, head_)
            return top1.token, top1.share

        return call

    def difference() -> float:
        return float(mx.abs(top(kernels)(0)[1] - top(twin)(0)[1]).max())

    return Case("head_top1", f"{shape.name}, {bits} bits", n_bytes, 2, top(kernels), top(twin), difference)


def _product_case(mx: Any, shape: TimedShape, bits: int, n_rows: int) -> Case:
    """The joined gate and up projections, the largest product of a layer."""
    from edgeinfer.backends.mlx.kernels import KERNELS, Kernels, Matrix

    def matrix() -> Any:
        codes, scales, biases = mx.quantize(_random(mx, (2 * shape.ffn, shape.width)) * 0.05, 64, bits)
        return Matrix(codes, scales, biases, bits, 64)

    first = matrix()
    n_bytes = sum(array.nbytes for array in (first.codes, first.scales, first.biases))
    matrices = [first, *(matrix() for _ in range(max(2, LAYERS_BYTES // n_bytes) - 1))]
    x = _random(mx, (n_rows, shape.width))
    mx.eval(x, [(one.codes, one.scales, one.biases) for one in matrices])
    twin, kernels = Kernels(), Kernels(frozenset(KERNELS), is_quicker=lambda *_: True)

    def product(chosen: Any) -> Callable[[int], Any]:
        return lambda layer: chosen.rows_matmul(x, matrices[layer])

    def difference() -> float:
        return float(mx.abs(product(kernels)(0) - product(twin)(0)).max())

    label = f"{shape.name}, {bits} bits, {n_rows} rows"
    return Case("rows_matmul", label, n_bytes, len(matrices), product(kernels), product(twin), difference)


def _random(mx: Any, size: tuple[int, ...]) -> Any:
    return mx.random.normal(size).astype(mx.float16)


def _measure(mx: Any, case: Case, pairs: int) -> Timing:
    def seconds(call: Callable[[int], Any]) -> float:
        started = time.perf_counter()
        mx.eval([call(layer) for layer in range(case.n_layers)])
        return (time.perf_counter() - started) / case.n_layers

    for warm in (case.run_kernel, case.run_twin):
        seconds(warm)
    times = [(seconds(case.run_kernel), seconds(case.run_twin)) for _ in range(pairs)]
    return Timing(
        case.kernel,
        case.shape,
        case.n_bytes,
        1e6 * statistics.median(mine for mine, _ in times),
        1e6 * statistics.median(other for _, other in times),
        statistics.median(mine / other for mine, other in times),
        case.difference(),
    )


def _table(timings: list[Timing]) -> str:
    rows = [
        [
            f"{t.kernel}: {t.shape}",
            f"{t.kernel_us:.0f}",
            f"{t.twin_us:.0f}",
            f"{t.ratio:.2f}",
            f"{t.n_bytes / t.kernel_us / 1e3:.0f}",
            f"{t.difference:.1e}",
        ]
        for t in timings
    ]
    return table(["kernel", "kernel, us", "twin, us", "kernel / twin", "GB/s", "largest difference"], rows)


def _report(mx: Any, args: argparse.Namespace, timings: list[Timing]) -> str:
    from edgeinfer.device import detect

    command = ["edgeinfer", "bench", "kernels", *(["--quick"] if args.quick else [])]
    top = head("Metal kernels against their twins", command, detect(), {"mlx": mx.__version__})
    return f"{top}\nKernel and twin in turn; medians.\n\n{_table(timings)}"
