"""The C++ engine through its C interface, and what it refuses with a reason."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

import edgeinfer
from edgeinfer.backends.executorch import BACKEND
from edgeinfer.backends.executorch.engine import Floats, Program, Rings
from edgeinfer.errors import ArtifactError, BackendError, EngineError, UsageError
from edgeinfer.plan import Request
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy
from tests.executorch.exported import bundle_of, missing, with_kv_type
from tests.tiny_gguf import Tiny, write_tiny

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=128)
BYTES_IN_F32 = 512 * 4 * 2 * 2 * 32 * 4  # positions, layers, heads, K and V, values, bytes


@pytest.fixture(scope="module")
def program_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle_of(write_tiny(tmp_path_factory.mktemp("tiny") / "llama-F32.gguf", Tiny()), "fp32") / "model.pte"


@pytest.fixture
def program(program_path: Path) -> Iterator[Program]:
    program = Program(program_path, n_threads=1)
    yield program
    program.close()


def test_the_description_of_a_program(program: Program) -> None:
    info = program.info
    assert (info.n_layers, info.n_kv_heads, info.head_dim, info.hidden) == (4, 2, 32, 128)
    assert (info.n_vocab, info.limit, info.exit_layer, info.n_threads) == (288, 2048, 2, 1)


def test_invalid_forwards_are_refused(program: Program) -> None:
    rings = program.new_rings(POLICY)
    tokens = list(range(3, 60))
    for ids, start, n_rows, cause in (
        ([288], 0, 1, "token 288 is outside the vocabulary of 288"),
        ([-1], 0, 1, "token -1 is outside"),
        (tokens[:10], 60, 1, "10 tokens at position 60 cross a block of the window: 4"),
        (tokens[:3], 79, 1, "3 tokens at position 79 cross a block of the window: 1"),
        ([5], 128, 1, "the position is 128; it must be 0 to 127"),
        ([], 0, 0, "the number of tokens is 0; it must be 1 to 128"),
        (tokens[:17], 0, 17, "the number of rows is 17; it must be 0 to 16"),
    ):
        with pytest.raises(UsageError) as caught:
            rings.forward(ids, start, n_rows)
        assert cause in str(caught.value)
    expected = program.new_rings(POLICY).forward([5], 0, 1)
    np.testing.assert_array_equal(rings.forward([5], 0, 1), expected)  # the refused calls changed nothing
    rings.close()
    with pytest.raises(EngineError, match="closed"):
        rings.forward([5], 0, 1)


def test_a_window_beyond_the_positions_of_the_model_is_refused(program: Program) -> None:
    with pytest.raises(UsageError, match="the limit is 4096; it must be 1 to 2048"):
        program.new_rings(WindowPolicy(window=64, sink=8, block=16, limit=4096))


def test_conversations_do_not_see_each_other(program: Program) -> None:
    """Two conversations on one program in alternating steps, compared with each alone."""
    policies = (POLICY, WindowPolicy(window=32, sink=0, block=8, limit=96))
    tokens = [[(7 * index + 3 * which) % 280 + 3 for index in range(90)] for which in range(2)]

    def row(rings: Rings, which: int, at: int) -> Floats:
        return rings.forward([tokens[which][at]], at, 1)[0]

    alone = []
    for which, policy in enumerate(policies):
        rings = program.new_rings(policy)
        alone.append([row(rings, which, at) for at in range(90)])
        rings.close()
    together = [program.new_rings(policy) for policy in policies]
    for at in range(90):
        for which, rings in enumerate(together):
            np.testing.assert_array_equal(row(rings, which, at), alone[which][at])
    assert not np.array_equal(alone[0][89], alone[1][89])


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_the_engine_keeps_k_and_v_as_the_bundle_says(program_path: Path, kv_type: KvType) -> None:
    bundle = with_kv_type(program_path.parent, kv_type)
    plan = edgeinfer.choose(Request(model=str(bundle), context=512, force=True))
    model = BACKEND.load(plan, bundle)
    cache = model.new_cache(plan.window)
    assert plan.kv_type == kv_type
    assert cache.n_bytes == plan.estimate.kv_bytes < BYTES_IN_F32
    cache.close()
    model.close()


def test_a_cache_outlives_its_model(program_path: Path) -> None:
    program = Program(program_path)
    rings = program.new_rings(POLICY)
    program.close()
    program.close()
    assert rings.forward([5], 0, 1).shape == (1, 288)
    with pytest.raises(EngineError, match="closed"):
        program.new_rings(POLICY)
    rings.close()
    rings.close()


def test_threads_share_a_program(program: Program) -> None:
    """Two threads, each with a conversation: their forwards run one after the other."""

    def rows(which: int) -> list[Floats]:
        rings = program.new_rings(POLICY)
        return [rings.forward([3 + (at * 7 + which) % 280], at, 1)[0] for at in range(100)]

    alone = [rows(which) for which in range(2)]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(rows, range(2)))
    for which in range(2):
        np.testing.assert_array_equal(together[which], alone[which])


def test_opening_and_closing_gives_all_memory_back(program_path: Path) -> None:
    def cycle() -> None:
        program = Program(program_path, n_threads=1)
        rings = program.new_rings(POLICY)
        rings.forward([5, 6, 7], 0, 1)
        rings.close()
        program.close()

    for _ in range(5):
        cycle()
    before = psutil.Process().memory_info().rss
    for _ in range(40):
        cycle()
    assert psutil.Process().memory_info().rss - before < 2_000_000  # the program has 2.7 MB of weights


@pytest.mark.parametrize("keep", [0, 7, 100, 5000, 400_000, -1])
def test_a_cut_program_is_refused_in_one_line(program_path: Path, tmp_path: Path, keep: int) -> None:
    """In a separate process, so that a crash fails only this test."""
    cut = tmp_path / "cut.pte"
    cut.write_bytes(program_path.read_bytes()[:keep])
    code = (
        "import sys; from pathlib import Path; from edgeinfer.errors import EdgeInferError\n"
        "from edgeinfer.backends.executorch.engine import Program\n"
        "try: Program(Path(sys.argv[1])); print('loaded')\n"
        "except EdgeInferError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(cut)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")  # the log of the engine is captured
    assert done.stdout.startswith(("ArtifactError", "EngineError")) and done.stdout.count("\n") == 1, done.stdout
    assert str(cut) in done.stdout


def test_a_missing_program_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is not a sound program"):
        Program(tmp_path / "missing.pte")


def test_without_a_compiler_the_probe_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from edgeinfer.backends.executorch import BACKEND, build

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert BACKEND.probe().unavailable == ""
    monkeypatch.setenv("PATH", str(tmp_path))
    probe = BACKEND.probe()
    assert probe.unavailable == "its engine must be compiled, and this machine lacks cmake, make, a C++ compiler"
    assert "cmake" in probe.hint
    with pytest.raises(BackendError, match="must be compiled"):
        build.engine_library()
