"""One launch of a Metal kernel as a value, and what runs it.

The sources lie in `metal_kernels/` at the top of a checkout, and in `edgeinfer/metal_kernels/` of an installed wheel.
`mx.fast.metal_kernel` makes the signature; this module only names inputs and outputs in their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import mlx.core as mx

from edgeinfer.errors import EngineError

ArrayShape: TypeAlias = tuple[int, ...]
Dim3: TypeAlias = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Signature:
    """Names of a kernel's buffers, in order, and the header that its body needs."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    header: str = ""


SIGNATURES = {
    "attend": Signature(("q", "ring", "logits", "scale", "params"), ("out", "stats"), "ring.h"),
    "attend_merge": Signature(("partial", "stats", "logits", "params"), ("out",)),
    "pack_rows": Signature(("k", "v"), ("rows",), "ring.h"),
    "head_top1": Signature(
        ("x", "weight", "table", "scales", "biases", "numbers", "sizes"), ("best_out", "sums_out", "ids_out"), "head.h"
    ),
    "rows_matmul": Signature(("x", "table", "scales", "biases", "sizes"), ("y",), "head.h"),
    "head_merge": Signature(("best", "sums", "ids", "sizes"), ("token", "top", "share")),
}


@dataclass(frozen=True, slots=True)
class Launch:
    """`grid` counts threads, as in `mx.fast.metal_kernel`; every output is a new buffer."""

    kernel: str
    inputs: tuple[mx.array, ...]
    template: tuple[tuple[str, Any], ...]
    grid: Dim3
    threadgroup: Dim3
    output_shapes: tuple[ArrayShape, ...]
    output_dtypes: tuple[Any, ...]


Launcher: TypeAlias = Callable[[Launch], list[mx.array]]


def source_dir() -> Path:
    """The folder of the kernel sources. Raises EngineError when an installation lost it."""
    package = Path(__file__).resolve().parents[3]
    for folder in (package / "metal_kernels", package.parent / "metal_kernels"):
        if (folder / "attend.metal").is_file():
            return folder
    raise EngineError(f"no metal_kernels folder in {package} or beside it", hint="install edgeinfer again")


@cache
def source(name: str) -> tuple[str, str]:
    """(header, body) of kernel `name`."""
    header = SIGNATURES[name].header
    folder = source_dir()
    text = (folder / header).read_text(encoding="utf-8") if header else ""
    return text, (folder / f"{name}.metal").read_text(encoding="utf-8")


def metal_function(name: str, header: str, body: str) -> Any:
    signature = SIGNATURES[name]
    return mx.fast.metal_kernel(
        name=f"edgeinfer_{name}",
        input_names=list(signature.inputs),
        output_names=list(signature.outputs),
        header=header,
        source=body,
    )


@cache
def _compiled(name: str) -> Any:
    return metal_function(name, *source(name))


def on_metal(launch: Launch) -> list[mx.array]:
    """Run on the GPU. Only with `mx.metal.is_available()`."""
    outputs: list[mx.array] = _compiled(launch.kernel)(**arguments(launch))
    return outputs


def arguments(launch: Launch) -> dict[str, Any]:
    return {
        "inputs": list(launch.inputs),
        "template": list(launch.template),
        "grid": launch.grid,
        "threadgroup": launch.threadgroup,
        "output_shapes": list(launch.output_shapes),
        "output_dtypes": list(launch.output_dtypes),
    }
