"""Seeded mistakes in the C++ engine, each compiled and run: the checks of the conformance suite find every one."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgeinfer.backends.executorch.build import LIBRARY
from tests.executorch.exported import ROOT, bundle_of, missing
from tests.runtime.built import CompiledCopy
from tests.tiny_gguf import Tiny, write_tiny

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

ENGINE = ROOT / "mobile/runtime/engine"


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str
    before: str
    after: str


MUTANTS = (
    Mutant("the ring overwrites the sinks", "window.h", "sink + position % window", "position % slots()"),
    Mutant("a block too many is visible", "window.h", "block - (window - block)", "block - window"),
    Mutant("a query does not see itself", "operators.cpp", "p + 1 - std::max", "p - std::max"),
    Mutant("scores are not scaled", "operators.cpp", "1.0f / std::sqrt(static_cast<float>(dim))", "1.0f"),
    Mutant("keys are turned the other way", "operators.cpp", "a * c[i] - b * s[i]", "a * c[i] + b * s[i]"),
    Mutant("values of the neighbor's head", "operators.cpp", "layer.values.data() + head", "layer.values.data()"),
    Mutant("the first rows, not the last", "engine.cpp", "indices.push_back(row)", "indices.push_back(n - 1 - row)"),
    Mutant("several rows round differently from one", "attention_kernel.inc", "Vec sums[N][C] = {};",
           "Vec sums[N][C] = {}; if (N == 4) sums[3][0] += all(1e-6f);"),
)  # fmt: skip

CHECK = """
import sys
from pathlib import Path
from edgeinfer.backends.executorch import engine
engine.engine_library = lambda: Path(sys.argv[1])
from edgeinfer.backends.executorch.bundle import load_bundle
from tests.conformance import checks
from tests.conformance.backends import LLAMA, Subject
from tests.conformance.plain import Case
model = load_bundle(Path(sys.argv[2]), n_threads=1)
case = Case(Subject("executorch", LLAMA, lambda _: model, "f32", oracle_tolerance=1e-3), model, Path(sys.argv[3]))
try:
    checks.check_oracle(case)
    checks.check_chunks(case)
except AssertionError:
    sys.exit(3)
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "llama-F32.gguf", Tiny())


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> CompiledCopy:
    return CompiledCopy.of(ENGINE, tmp_path_factory.mktemp("engine"))


def run(copy: CompiledCopy, model: Path) -> subprocess.CompletedProcess[str]:
    """The checks on the compiled engine, in a process of its own."""
    command = [sys.executable, "-c", CHECK, str(copy.compiled / LIBRARY), str(bundle_of(model, "fp32")), str(model)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_engine_passes(model: Path, copy: CompiledCopy) -> None:
    done = run(copy, model)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mistake_is_found(mutant: Mutant, model: Path, copy: CompiledCopy) -> None:
    with copy.mistake(mutant.file, mutant.before, mutant.after):
        done = run(copy, model)
    assert done.returncode == 3, done.stderr
