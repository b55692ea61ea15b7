"""Metal kernels as CUDA: `python -m tests.metal.cuda.generate FOLDER` writes a .cu file for each variant, the launches
of the value checks with their inputs and the simulator's outputs, and the launches to time. `run.py` takes FOLDER on a
machine with nvcc, a GPU and PyTorch; it needs nothing else of this project.

What is rewritten: address-space words are dropped, threadgroup arrays become __shared__, functions get __device__, and
the thread attributes that the signature asks for become locals. The bodies are those of metal_kernels/.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from edgeinfer.backends.mlx.kernels import Head, Matrix, RingLayout, Step
from edgeinfer.backends.mlx.kernels.attend import attend_kernel
from edgeinfer.backends.mlx.kernels.head import head_top1_kernel
from edgeinfer.backends.mlx.kernels.launch import Launch
from edgeinfer.backends.mlx.kernels.matmul import rows_matmul_kernel
from edgeinfer.window import WindowPolicy
from tests.metal.checks import TOLERANCE, check_attend, check_head, check_matmul, check_pack
from tests.metal.simulator import MetalSource, Simulator, generate_launch, numpy_bits

LOCALS = {
    "thread_index_in_simdgroup": "uint {} = threadIdx.x % 32;",
    "simdgroup_index_in_threadgroup": "uint {} = threadIdx.x / 32;",
    "thread_index_in_threadgroup": "uint {} = threadIdx.x;",
    "threadgroup_position_in_grid": "uint3 {} = make_uint3(blockIdx.x, blockIdx.y, blockIdx.z);",
}


def cuda_text(source: MetalSource) -> tuple[str, int]:
    """The .cu text with an `extern "C" int launch(void** buffers, grid, block, stream)`, and the number of buffers."""
    name = source.instance.split("<")[0]
    start = source.text.index("[[kernel]] void")
    opened = source.text.index("(", start)
    closed = source.text.index(") {", opened)
    parameters = [part.strip() for part in source.text[opened + 1 : closed].split(",\n")]
    buffers = [p.split("[[")[0].strip() for p in parameters if "[[buffer" in p]
    attributes = [m[1] for p in parameters if (m := re.search(r"\[\[(?!buffer)(\w+)\]\]", p))]
    locals_ = "\n".join("  const " + LOCALS[a].format(a) for a in attributes)
    head = (
        source.text[:start]
        .replace("inline ", "__device__ inline ")
        .replace("\nconstexpr int", "\n__device__ constexpr int")
    )
    text = f"{head}__global__ void {name}({', '.join(buffers)}) {{\n{locals_}\n{source.text[closed + 3 :]}"
    text = re.sub(r"\bthreadgroup (\w+) (\w+)\[", r"__shared__ \1 \2[", text)
    text = re.sub(r"(?m)^constant constexpr", "static constexpr", text)
    text = re.sub(r"\b(device|constant|thread)\b (?=[\w*])", "", text)
    types = [re.sub(r"\b(device|constant|thread)\b |\w+$", "", buffer) for buffer in buffers]
    casts = ", ".join(f"static_cast<{kind.strip()}>(buffers[{i}])" for i, kind in enumerate(types))
    call = f"{source.instance}<<<grid, block, 0, stream>>>({casts});"
    host = (
        'extern "C" int launch(void** buffers, unsigned gx, unsigned gy, unsigned gz, unsigned tx, '
        "cudaStream_t stream) {\n"
        f"  const dim3 grid(gx, gy, gz), block(tx);\n  {call}\n  return cudaGetLastError();\n}}\n"
    )
    return f'#include "dialect.h"\n{text}\n{host}', len(buffers)


class Exporter:
    """Writes launches as files; `record` is a launcher that answers with the simulator's outputs."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.folder, self.simulator = folder, simulator
        self.cases: list[dict[str, Any]] = []
        self.timed: list[dict[str, Any]] = []
        self.tolerance = 0.0

    def source(self, launch: Launch) -> str:
        text, _ = cuda_text(generate_launch(launch))
        name = f"{launch.kernel}_{hashlib.sha256(text.encode()).hexdigest()[:10]}"
        (self.folder / f"{name}.cu").write_text(text)
        return name

    def entry(self, launch: Launch) -> dict[str, Any]:
        blocks = [g // t for g, t in zip(launch.grid, launch.threadgroup, strict=True)]
        assert [b * t for b, t in zip(blocks, launch.threadgroup, strict=True)] == list(launch.grid)
        outputs = [[list(s), _name(d)] for s, d in zip(launch.output_shapes, launch.output_dtypes, strict=True)]
        return {
            "library": self.source(launch),
            "kernel": launch.kernel,
            "template": {key: _name(value) if isinstance(value, mx.Dtype) else value for key, value in launch.template},
            "grid": blocks,
            "threads": launch.threadgroup[0],
            "outputs": outputs,
        }

    def record(self, launch: Launch) -> list[mx.array]:
        outputs = self.simulator.launch(launch)
        entry = self.entry(launch) | {"tolerance": self.tolerance, "data": f"case{len(self.cases)}"}
        arrays = [*launch.inputs, *outputs]
        entry["arrays"] = [[list(a.shape), _name(a.dtype)] for a in arrays]
        np.savez(
            self.folder / f"{entry['data']}.npz", *[np.frombuffer(numpy_bits(a).tobytes(), np.uint8) for a in arrays]
        )
        self.cases.append(entry)
        return outputs

    def time(self, entry: dict[str, Any], call: Any) -> None:
        launches: list[dict[str, Any]] = []

        def note(launch: Launch) -> list[mx.array]:
            small = [a.tolist() if a.size <= 16 else None for a in launch.inputs]
            shapes = [[list(a.shape), _name(a.dtype)] for a in launch.inputs]
            launches.append(self.entry(launch) | {"inputs": shapes, "values": small})
            return [mx.zeros(s, d) for s, d in zip(launch.output_shapes, launch.output_dtypes, strict=True)]

        call(note)
        self.timed.append(entry | {"launches": launches})


def _name(dtype: Any) -> str:
    return str(dtype).split(".")[-1]


def export_checks(exporter: Exporter) -> None:
    from tests.metal.test_kernels import ATTEND, HEAD, MATMUL, PACK

    checks: tuple[tuple[Any, Any], ...] = (
        (check_attend, ATTEND),
        (check_pack, PACK),
        (check_head, HEAD),
        (check_matmul, MATMUL),
    )
    for check, cases in checks:
        for case in cases:
            exporter.tolerance = TOLERANCE[case.dtype]
            check(case, exporter.record)


ATTEND_SHAPES = {"Llama-3.2-1B": (64, 8, 4), "Qwen3-8B": (128, 8, 4)}  # head dim, KV heads, query heads for each
MATMUL_SHAPES = {"Llama-3.2-1B": (16384, 2048), "Qwen3-8B": (24576, 4096)}  # outputs and width of gate and up, joined
HEAD_SHAPES = {"Llama-3.2-1B": (128256, 2048), "Qwen3-8B": (151936, 4096)}  # vocabulary, width


def export_timings(exporter: Exporter) -> None:
    half = mx.float16
    for model, (head_dim, n_kv, group) in ATTEND_SHAPES.items():
        for window in (4096, 32768):
            policy = WindowPolicy(window=window, sink=128, block=window // 8, limit=1 << 20)
            for bits in (16, 8, 4):
                for n_rows in (1, 5):
                    layout = RingLayout(head_dim, bits, half)
                    step = Step(3 * window + 17, n_rows, policy, policy)
                    q, ring = mx.zeros((1, n_kv * group, n_rows, head_dim), half), layout.empty(n_kv, policy.slots)
                    entry: dict[str, Any] = {
                        "kind": "attend",
                        "model": model,
                        "bits": bits,
                        "window": window,
                        "rows": n_rows,
                    }
                    entry |= {"head_dim": head_dim, "kv_heads": n_kv, "group": group, "ring_bytes": ring.nbytes}
                    entry |= {"policy": [policy.sink, window, policy.block], "start": step.start}

                    def attend(
                        launch: Any, q: Any = q, ring: Any = ring, layout: Any = layout, step: Any = step
                    ) -> None:
                        attend_kernel(q, ring, layout, step, q.shape[-1] ** -0.5, launch)

                    exporter.time(entry, attend)
    for model, (n_ids, width) in HEAD_SHAPES.items():
        for bits in (16, 8, 4):
            table = mx.zeros((n_ids, width), half) if bits == 16 else mx.zeros((n_ids, width * bits // 32), mx.uint32)
            affine = None if bits == 16 else mx.zeros((n_ids, width // 64), half)
            head = Head(table, bits, affine, affine, 64, mx.zeros((width,), half))
            entry = {"kind": "head", "model": model, "bits": bits, "ids": n_ids, "width": width, "rows": 1}
            entry["table_bytes"] = table.nbytes + (0 if affine is None else 2 * affine.nbytes)

            def top1(launch: Any, head: Any = head, width: int = width) -> None:
                head_top1_kernel(mx.zeros((1, width), half), head, launch)

            exporter.time(entry, top1)
    for model, (n_outs, width) in MATMUL_SHAPES.items():
        for bits in (8, 4):
            affine = mx.zeros((n_outs, width // 64), half)
            matrix = Matrix(mx.zeros((n_outs, width * bits // 32), mx.uint32), affine, affine, bits, 64)
            for n_rows in (2, 5, 8):
                entry = {"kind": "matmul", "model": model, "bits": bits, "outs": n_outs, "width": width, "rows": n_rows}
                entry["table_bytes"] = matrix.codes.nbytes + 2 * affine.nbytes

                def product(launch: Any, matrix: Any = matrix, n_rows: int = n_rows, width: int = width) -> None:
                    rows_matmul_kernel(mx.zeros((n_rows, width), half), matrix, launch)

                exporter.time(entry, product)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder: Path = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dialect.h").write_text((Path(__file__).parent / "dialect.h").read_text())
    with tempfile.TemporaryDirectory() as programs:
        exporter = Exporter(folder, Simulator(Path(programs), "none"))
        export_checks(exporter)
        export_timings(exporter)
    (folder / "manifest.json").write_text(json.dumps({"cases": exporter.cases, "timed": exporter.timed}))
    print(f"{len(exporter.cases)} launches to compare, {len(exporter.timed)} to time, in {folder}")


if __name__ == "__main__":
    main()
