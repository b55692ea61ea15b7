"""Runs a Metal kernel on the CPU: the source that MLX generates, compiled as C++ against tests/metal/sim.

On Linux the wheel has no Metal, but it still writes the whole kernel when a call is exported (`mx.export_function` over
`mx.fast.metal_kernel(..., verbose=True)`), so no replica of MLX's signature is needed.
"""

from __future__ import annotations

import contextlib
import copy
import ctypes
import hashlib
import os
import re
import shutil
import struct
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from edgeinfer.backends.mlx.kernels.launch import Launch, arguments, metal_function, source

SIM = Path(__file__).parent / "sim"
ORDERS = ("forward", "reverse", "random")
SANITIZE = {
    "none": ["-fno-threadsafe-statics"],
    "address": ["-fno-threadsafe-statics", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}
ENVIRONMENT = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0", "TSAN_OPTIONS": "halt_on_error=1"}

THREAD_VALUES = {
    "thread_position_in_grid": "sim::position_in_grid()",
    "thread_position_in_threadgroup": "sim::position_in_threadgroup()",
    "threadgroup_position_in_grid": "sim::group_position()",
    "threadgroups_per_grid": "sim::group_count()",
    "threads_per_threadgroup": "sim::group_dimensions()",
    "thread_index_in_threadgroup": "sim::index_in_threadgroup()",
    "thread_index_in_simdgroup": "sim::lane()",
    "simdgroup_index_in_threadgroup": "sim::simdgroup_index()",
}


class SimulatorError(AssertionError):
    """The simulator or a sanitizer stopped the kernel; the text says why."""


def compiler() -> str | None:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")


@dataclass(frozen=True)
class MetalSource:
    """Metal text and which instance of its kernel to run: `attend<half, 4>`."""

    text: str
    instance: str


@contextlib.contextmanager
def _captured_stdout() -> Iterator[Any]:
    """Captures what C++ prints to file descriptor 1, where MLX writes."""
    libc = ctypes.CDLL(None)
    libc.fflush(None)
    with tempfile.TemporaryFile() as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield file
        finally:
            libc.fflush(None)
            os.dup2(kept, 1)
            os.close(kept)


def generate(function: Any, call: dict[str, Any]) -> MetalSource:
    """The whole Metal source of one call of an `mx.fast.metal_kernel` function, as MLX would compile it."""

    def traced(*inputs: Any) -> Any:
        return function(**{**call, "inputs": list(inputs)}, verbose=True)

    with tempfile.TemporaryDirectory() as folder, _captured_stdout() as file:
        mx.export_function(str(Path(folder) / "traced"), traced, *call["inputs"])
        ctypes.CDLL(None).fflush(None)
        file.seek(0)
        printed = file.read().decode()
    text = printed[printed.index("```") + 3 : printed.rindex("```")]
    named = re.search(r"decltype\((.+)\)\s+\S.*;\s*$", text.strip())
    if named:
        return MetalSource(text[: text.index("template [[host_name")], named[1])
    kernel = re.search(r"\[\[kernel\]\]\s+void\s+(\w+)\(", text)
    assert kernel, "MLX printed no kernel"
    return MetalSource(text, kernel[1])


def _split_top(text: str) -> list[str]:
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += c in "[(<"
        depth -= c in "])>"
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    return [part.strip() for part in [*parts, text[start:]] if part.strip()]


def _arguments(source: MetalSource) -> tuple[str, int]:
    """C++ expressions for the kernel's parameters, and the number of buffers."""
    name = source.instance.split("<")[0]
    at = source.text.index(f"void {name}(") + len(f"void {name}(")
    parameters = _split_top(source.text[at : source.text.index(") {", at)])
    expressions, n_buffers = [], 0
    for parameter in parameters:
        buffer = re.search(r"\[\[buffer\((\d+)\)", parameter)
        if buffer:
            kind = "Reference" if "&" in parameter else "Pointer"
            expressions.append(f"sim::{kind}{{buffers[{buffer[1]}]}}")
            n_buffers = max(n_buffers, int(buffer[1]) + 1)
        else:
            attribute = re.search(r"\[\[(\w+)\]\]", parameter)
            assert attribute, parameter
            expressions.append(THREAD_VALUES[attribute[1]])
    return ", ".join(expressions), n_buffers


def cpp_text(source: MetalSource, constants: dict[str, str] | None = None) -> str:
    """The C++ program. Only threadgroup arrays, attributes and function constants change in the kernel's text."""
    expressions, n_buffers = _arguments(source)
    text = re.sub(r"\bthreadgroup\s+(\w+)\s+(\w+)\[([^\[\];]+)\]\s*;", r"static sim::Shared<\1, (\3)> \2;", source.text)
    text = re.sub(
        r"\bthreadgroup\s+(\w+)\s+(\w+)\[([^\[\];]+)\]\[([^\[\];]+)\]\s*;",
        r"static sim::Shared2<\1, (\3), (\4)> \2;",
        text,
    )
    for name, value in (constants or {}).items():
        text = re.sub(
            rf"constant (\w+) {name} \[\[function_constant\(\d+\)\]\];", rf"constexpr \1 {name} = {value};", text
        )
    text = re.sub(r"^#include <metal_\w+>", "", text, flags=re.M)
    text = re.sub(r"\[\[[a-z][^\]]*\]\]", "", text)
    return (
        f'#include "driver.h"\n{text}\n'
        f"static void* buffers[{max(1, n_buffers)}];\n"
        f"static void body() {{ {source.instance}({expressions}); }}\n"
        "int main(int argc, char** argv) { return sim::serve(argc, argv, buffers, body); }\n"
    )


@dataclass(frozen=True)
class Run:
    """One launch for `Simulator.run`: NumPy inputs; None where an output of `n_bytes` goes."""

    buffers: tuple[np.ndarray | int, ...]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    order: str = "forward"
    seed: int = 1


class Simulator:
    """Compiles each variant once into `folder`; answers are outputs as bytes."""

    def __init__(self, folder: Path, sanitize: str = "address") -> None:
        self.folder = folder
        self.texts: dict[str, tuple[str, str]] = {}  # (header, body) that replace a kernel's, for seeded mistakes
        self.sanitize = sanitize
        self.order = ""  # the order of threads; "" alternates between all
        self.launches = 0
        self.lock = threading.Lock()
        self.pool = ThreadPoolExecutor(max_workers=2)
        self.building: dict[str, Future[Path]] = {}

    def with_texts(self, texts: dict[str, tuple[str, str]]) -> Simulator:
        """The same programs and compilers with other kernel texts."""
        other = copy.copy(self)
        other.texts = texts
        return other

    def build(self, cpp: str) -> Path:
        flags = ["-std=c++17", "-O0", "-w", *SANITIZE[self.sanitize]]
        self._precompile(flags)
        key = hashlib.sha256("\n".join([cpp, *flags]).encode()).hexdigest()[:24]
        program = self.folder / key
        if not program.exists():
            text = program.with_suffix(".cpp")
            text.write_text(cpp)
            done = subprocess.run(
                [str(compiler()), *flags, f"-I{self.folder}", f"-I{SIM}", str(text), "-o", f"{program}.part"],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise SimulatorError(f"does not compile: {_first_errors(done.stderr)}")
            Path(f"{program}.part").rename(program)
        return program

    def _precompile(self, flags: list[str]) -> None:
        """Precompiles the shim's header, so that a variant compiles in half the time."""
        with self.lock:
            header = self.folder / "driver.h.gch"
            if not header.exists():
                command = [
                    str(compiler()),
                    *flags,
                    f"-I{SIM}",
                    "-x",
                    "c++-header",
                    str(SIM / "driver.h"),
                    "-o",
                    str(header),
                ]
                subprocess.run(command, capture_output=True, check=True)

    def prepare(self, launch: Launch) -> list[mx.array]:
        """A launcher that only starts to compile; its outputs are zeros."""
        program = cpp_text(generate_launch(launch, self.texts.get(launch.kernel)))
        with self.lock:
            if program not in self.building:
                self.building[program] = self.pool.submit(self.build, program)
        return [mx.zeros(shape, dtype) for shape, dtype in zip(launch.output_shapes, launch.output_dtypes, strict=True)]

    def run(self, program: Path, runs: Sequence[Run]) -> list[list[bytes]]:
        request = [struct.pack("<I", len(runs))]
        for run in runs:
            header = (*run.grid, *run.threadgroup, ORDERS.index(run.order), run.seed, len(run.buffers))
            request.append(struct.pack("<9I", *header))
            for buffer in run.buffers:
                if isinstance(buffer, int):
                    request.append(struct.pack("<IQ", 1, buffer))
                else:
                    data = buffer.tobytes()
                    request += [struct.pack("<IQ", 0, len(data)), data]
        with tempfile.TemporaryDirectory() as folder:
            asked, answered = Path(folder) / "request", Path(folder) / "answer"
            asked.write_bytes(b"".join(request))
            done = subprocess.run(
                [str(program), str(asked), str(answered)],
                capture_output=True,
                text=True,
                env={**os.environ, **ENVIRONMENT},
                timeout=600,
                check=False,
            )
            if done.returncode:
                raise SimulatorError(_first_errors(done.stderr) or f"exit status {done.returncode}")
            answer = answered.read_bytes()
        outputs: list[list[bytes]] = []
        at = 0
        for run in runs:
            outputs.append([])
            for size in (b for b in run.buffers if isinstance(b, int)):
                outputs[-1].append(answer[at : at + size])
                at += size
        self.launches += len(runs)
        return outputs

    def launch(self, launch: Launch) -> list[mx.array]:
        """Replaces `on_metal`: runs the same Launch in the simulator."""
        generated = generate_launch(launch, self.texts.get(launch.kernel))
        buffers: list[np.ndarray | int] = [numpy_bits(array) for array in launch.inputs]
        outputs = list(zip(launch.output_shapes, launch.output_dtypes, strict=True))
        buffers += [int(np.prod(shape)) * dtype.size for shape, dtype in outputs]
        order = self.order or ORDERS[self.launches % len(ORDERS)]
        run = Run(tuple(buffers), launch.grid, launch.threadgroup, order, seed=self.launches + 1)
        program = cpp_text(generated)
        ahead = self.building.get(program)
        (answer,) = self.run(ahead.result() if ahead else self.build(program), [run])
        return [from_bits(data, shape, dtype) for data, (shape, dtype) in zip(answer, outputs, strict=True)]


_generated: dict[tuple[Any, ...], MetalSource] = {}


def generate_launch(launch: Launch, text: tuple[str, str] | None = None) -> MetalSource:
    """`text`: (header, body) that replace the kernel's."""
    header, body = text or source(launch.kernel)
    small = tuple((str(a.dtype), min(a.size, 8), a.ndim) for a in launch.inputs)
    key = (launch.kernel, header, body, str(launch.template), small, str(launch.output_dtypes))
    if key not in _generated:
        _generated[key] = generate(metal_function(launch.kernel, header, body), arguments(launch))
    return _generated[key]


def numpy_bits(array: mx.array) -> np.ndarray:
    """The bytes of a row-contiguous copy; bfloat16 as uint16."""
    plain = mx.contiguous(array)
    return np.array(plain.view(mx.uint16) if plain.dtype == mx.bfloat16 else plain)


def from_bits(data: bytes, shape: tuple[int, ...], dtype: Any) -> mx.array:
    names = {mx.float32: np.float32, mx.float16: np.float16, mx.bfloat16: np.uint16, mx.uint32: np.uint32}
    flat = np.frombuffer(data, names.get(dtype, np.int32)).reshape(shape)
    return mx.array(flat).view(mx.bfloat16) if dtype == mx.bfloat16 else mx.array(flat)


def _first_errors(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if re.search(r"SIM:|ERROR|error|SUMMARY|runtime", line)]
    return " | ".join(lines[:4])
