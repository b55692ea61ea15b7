"""Kernels under ASan and UBSan, with random shapes and the bytes of hostile files: they stay in their buffers, and give
the bits of ggml's."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

import llama_cpp

from edgeinfer.backends.gguf.kernels import library
from edgeinfer.device import detect
from tests.object_cache import CompilerError, compiled, linked
from tests.runtime.sanitized import flags_of

HARNESS = Path(__file__).with_name("kernel_bounds.cpp")
KERNELS = Path(library.__file__).parent
GGML = Path(llama_cpp.__file__).parent / "lib/libggml-cpu.so.0"
N_CASES = 300  # of each kernel
N_MORE_CASES = 6_000

WHY_NOT = library.why_not(detect())
FLAGS = () if WHY_NOT else library._flags()  # as the kernels are built here
AVX2 = library._FLAGS
HAS_VNNI = "-mavx512vnni" in FLAGS
MANY = bool(os.environ.get("EDGEINFER_MISTAKES"))
pytestmark = pytest.mark.skipif(bool(WHY_NOT), reason=WHY_NOT or "-")


def program(folder: Path, flags: Sequence[str]) -> Path:
    """The harness, with the kernels in this folder. Skips where there are no sanitizers."""
    sources = (path for path in sorted(folder.glob("*.cpp")) if path.name != "install.cpp")
    instruction_sets = [flag for flag in flags if flag.startswith("-m")]
    sanitizers = flags_of("address,undefined")
    try:
        objects = compiled("c++", (*sources, HARNESS), "-std=c++17", f"-I{folder}", *instruction_sets, *sanitizers)
        return linked("c++", objects, *sanitizers, "-pthread", "-ldl")
    except CompilerError as error:
        pytest.skip(f"this compiler has no sanitizers: {error}")


def run(path: Path, n_cases: int, *, first: int = 0) -> subprocess.CompletedProcess[str]:
    command = [str(path), str(GGML), str(first), str(n_cases)]
    environment = {**os.environ, "ASAN_OPTIONS": "handle_sigill=1"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=500, env=environment)


def cases(names: Iterable[str], n_cases: int) -> str:
    return "".join(f"{name}: {n_cases} cases\n" for name in names)


@pytest.mark.parametrize("flags", [FLAGS, AVX2], ids=["as built here", "AVX2"])
def test_nothing_outside_the_buffers_is_read_or_written(flags: Sequence[str]) -> None:
    names = ["F16", "Q4_0", *(["Q4_1", "Q8_0", "Q5_K", "Q6_K", "Q4_K"] if "-mavx512vnni" in flags else [])]
    done = run(program(KERNELS, flags), N_CASES)
    assert (done.returncode, done.stdout) == (0, cases(names, N_CASES)), done.stderr[-3000:]


@pytest.mark.skipif(not MANY, reason="EDGEINFER_MISTAKES=1 runs more cases, for a minute")
@pytest.mark.parametrize("flags", [FLAGS, AVX2], ids=["as built here", "AVX2"])
def test_nothing_outside_the_buffers_is_read_or_written_in_more_cases(flags: Sequence[str]) -> None:
    done = run(program(KERNELS, flags), N_MORE_CASES, first=N_CASES)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]


MISTAKES = (
    ("blocks.cpp", "std::min(block + EARLY, n_blocks - 1)", "(block + EARLY)"),  # reads scales of blocks after the last
    ("q4_0.cpp", "block < n_blocks; ++block, values", "block <= n_blocks; ++block, values"),  # reads a block too many
    ("f16.cpp", "row + 2 <= n_rows", "row < n_rows"),  # writes one row too many
)
MORE_MISTAKES = (
    ("side_by_side.h", "std::min(i, n_rows - 1)", "i"),  # reads matrix rows after the last
    ("blocks.cpp", "(1u << n_rows) - 1", "0xFFFF"),  # writes whole groups of rows
    ("f16.cpp", "n_values / STEP * STEP", "(n_values + STEP - 1) / STEP * STEP"),  # reads whole steps
    ("f16.cpp", "n * inputs.stride, n_values,", "n * inputs.stride, stride,"),  # reads beyond the last input
    ("q4_0.cpp", "row + 16 <= n_rows", "row < n_rows"),  # reads and writes eight rows too many
    ("k_blocks.cpp", "sizeof(Block) - CHUNK, last", "sizeof(Block), last"),  # reads after the last block
    ("k_blocks.cpp", "block < product.n_blocks; ++block", "block <= product.n_blocks; ++block"),  # a block too many
    ("repacked.h", "product.n_inputs - input >= most_together", "product.n_inputs - input >= 4"),  # four as eight
    ("q4_K.cpp", "inputs.n_blocks; ++block", "inputs.n_blocks + 1; ++block"),  # reads a block too many
    ("q4_K.cpp", "int64_t i = 0; i < 16; ++i", "int64_t i = 0; i <= 16; ++i"),  # writes a seventeenth sum
)  # fmt: skip


@pytest.mark.skipif(not HAS_VNNI, reason="AVX-512 VNNI")
@pytest.mark.parametrize(("file", "right", "wrong"), MISTAKES + MORE_MISTAKES * MANY)
def test_a_read_or_a_write_outside_is_noticed(file: str, right: str, wrong: str, tmp_path: Path) -> None:
    for source in (*KERNELS.glob("*.cpp"), *KERNELS.glob("*.h")):
        (tmp_path / source.name).write_text(source.read_text())
    assert (tmp_path / file).read_text().count(right) == 1
    (tmp_path / file).write_text((tmp_path / file).read_text().replace(right, wrong))
    done = run(program(tmp_path, FLAGS), N_CASES)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr or "it writes between the rows" in done.stdout
