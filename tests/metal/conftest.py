"""The launcher: Metal where there is a GPU, the simulator elsewhere."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from edgeinfer.backends.mlx.kernels.launch import Launcher, on_metal  # noqa: E402
from tests.metal.simulator import Simulator, compiler  # noqa: E402

FULL = bool(os.environ.get("EDGEINFER_METAL_FULL"))


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Simulator:
    """Under AddressSanitizer and UndefinedBehaviorSanitizer; every variant is compiled once per run."""
    if mx.metal.is_available():
        pytest.skip("a GPU is here: the kernels run on it")
    if compiler() is None:
        pytest.skip("no C++ compiler: the simulator cannot be built")
    return Simulator(tmp_path_factory.mktemp("simulator"))


@pytest.fixture(scope="session")
def ahead(simulator: Simulator) -> Callable[[Callable[[Launcher], None]], None]:
    """Compiles what a check will launch in the background, with two compilers."""

    def start(check: Callable[[Launcher], None]) -> None:
        with contextlib.suppress(AssertionError):
            check(simulator.prepare)

    return start


@pytest.fixture
def launch(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    """The simulator takes another thread order for every call."""
    if mx.metal.is_available():
        yield on_metal
        return
    simulator: Simulator = request.getfixturevalue("simulator")
    yield simulator.launch
