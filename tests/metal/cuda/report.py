# ruff: noqa: E501 - prose of the report
"""`python -m tests.metal.cuda.report FILE.json MEMCHECK.txt RACECHECK.txt`: what run.py measured, as Markdown."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from edgeinfer.bench.report import commit

WORDS = """# The Metal kernels, run as CUDA

These are CUDA figures, not Metal's. On Metal, this has not been run yet: `metal_kernels/README.md` says what to run on a Mac.

The bodies in `metal_kernels/` become CUDA by `tests/metal/cuda/generate.py`: address-space words are dropped, threadgroup
arrays become `__shared__`, a SIMD group is a warp. A second real machine runs the same bodies, which the simulator is not.

```
python -m tests.metal.cuda.generate FOLDER                      # here: sources, inputs, the simulator's outputs
python tests/metal/cuda/run.py FOLDER report.json               # there: nvcc, a GPU and PyTorch
compute-sanitizer --tool memcheck python tests/metal/cuda/run.py FOLDER again.json compare > memcheck.txt
compute-sanitizer --tool racecheck python tests/metal/cuda/run.py FOLDER again.json compare > racecheck.txt
python -m tests.metal.cuda.report report.json memcheck.txt racecheck.txt > docs/cuda-kernels.md    # here
```
"""


def table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(titles)} |", f"|---{'|---:' * (len(titles) - 1)}|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def figures(row: dict[str, Any]) -> list[str]:
    kernel, twin = row["kernel_us"], row["twin_us"]
    return [f"{kernel:.0f}", f"{twin:.0f}", f"{kernel / twin:.2f}", f"{row['gb_per_s']:.0f}", f"{row['worst']:.1e}"]


def summary(text: str) -> str:
    """The sanitizer's last line, without its mark."""
    return next(line for line in reversed(text.splitlines()) if "SUMMARY: " in line).partition("SUMMARY: ")[2].strip()


def markdown(report: dict[str, Any], memcheck: str, racecheck: str) -> str:
    attend = [row for row in report["timed"] if row["kind"] == "attend"]
    heads = [row for row in report["timed"] if row["kind"] == "head"]
    products = [row for row in report["timed"] if row["kind"] == "matmul"]
    measures = ["kernel, us", "twin, us", "kernel / twin", "GB/s", "difference"]
    return "\n".join(
        [
            WORDS,
            f"Device: {report['device']}. PyTorch {report['torch']}, nvcc {report['nvcc'].strip()}. Commit: {commit()}.\n",
            "## Values\n",
            "Every launch of the value checks of `tests/metal` (which compare with float64 NumPy), against the simulator's output.\n",
            table(
                ["kernel", "launches", "largest difference, relative to max(1, expected)"],
                [[name, str(n), f"{worst:.1e}"] for name, (n, worst) in sorted(report["compared"].items())],
            ),
            f"Outside the tolerance: {len(report['wrong'])}. `compute-sanitizer` memcheck: {summary(memcheck)}; "
            f"racecheck: {summary(racecheck)}.\n",
            "## Time against a twin in PyTorch\n",
            "The twin of attend unpacks K and V where they are quantized and calls `scaled_dot_product_attention` with the window's "
            "mask; at 16 bits there is nothing to unpack. Layers are cycled through 256 MB and more, so that no cache holds the ring; "
            "each figure is the median of 15 replays of a CUDA graph, the better of two turns each. GB/s counts the ring once.\n",
            table(
                ["attend: model, window, K/V, rows", *measures],
                [[f"{r['model']}, {r['window'] // 1024}k, {r['bits']} bits, {r['rows']}", *figures(r)] for r in attend],
            ),
            "The twin of head_top1 multiplies 16-bit weights (unpacked before the clock starts, where they are quantized: PyTorch "
            "has no affine product), then takes the maximum and the log-sum-exp of the logits. Difference is of the probability, relative.\n",
            table(
                ["head_top1: model, weights", *measures],
                [[f"{r['model']}, {r['bits']} bits", *figures(r)] for r in heads],
            ),
            "The twin of rows_matmul multiplies 16-bit weights that were unpacked before the clock starts.\n",
            table(
                ["rows_matmul: model, weights, rows", *measures],
                [[f"{r['model']}, {r['bits']} bits, {r['rows']}", *figures(r)] for r in products],
            ),
            "The shapes (rows per threadgroup, splits) were set by runs on this GPU; for a Mac they are untuned. Where a ratio is above 1, PyTorch's own kernel is "
            "better on this GPU: flash attention over 16-bit K and V for one row, and 16-bit products of several rows, which run on tensor cores.\n",
        ]
    )


if __name__ == "__main__":
    measured, memcheck, racecheck = (Path(name).read_text() for name in sys.argv[1:4])
    print(markdown(json.loads(measured), memcheck, racecheck), end="")
