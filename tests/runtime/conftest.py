"""The compiled runtime and the bundles of its tests."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from tests.executorch.exported import ROOT, bundle_of, keep_compiled_engine, missing
from tests.runtime.built import Runtime, runtime
from tests.runtime.child import Process
from tests.runtime.decode_library import DECODE, compiled, mutant
from tests.runtime.sanitized import FLAGS, SANITIZER, start_programs_without_preload
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    start_programs_without_preload()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        keep_compiled_engine()
        yield


@pytest.fixture(scope="session")
def built() -> Runtime:
    if missing():
        pytest.skip(missing())
    return runtime(*FLAGS)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with random weights, 288 tokens and 2,048 positions."""
    if missing():
        pytest.skip(missing())
    return bundle_of(write_tiny(tmp_path_factory.mktemp("tiny") / "llama-F32.gguf", Tiny()), "fp32")


@pytest.fixture(scope="session")
def with_feature_draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a draft on the states after three of its layers."""
    if missing():
        pytest.skip(missing())
    model = write_tiny(tmp_path_factory.mktemp("feature") / "llama-F32.gguf", Tiny())
    write_tiny_draft(draft_beside(model), model, (1, 2, 4))
    return bundle_of(model, "fp32")


@pytest.fixture(scope="session")
def with_exit_draft(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a draft on the state after its second layer."""
    if missing():
        pytest.skip(missing())
    model = write_tiny(tmp_path_factory.mktemp("exit") / "llama-F32.gguf", Tiny())
    write_tiny_draft(draft_beside(model), model, exit_layer=2)
    return bundle_of(model, "fp32")


@pytest.fixture(scope="session")
def demo() -> Path:
    if missing():
        pytest.skip(missing())
    return bundle_of(ROOT / "edgeinfer/models/demo.Q4_0.gguf", "8da4w")


@pytest.fixture(scope="session")
def in_python() -> Iterator[Process]:
    """The process of the backend `executorch`, which no sanitizer looks at."""
    with closing(Process(sanitizer="")) as process:
        yield process


@pytest.fixture(scope="session")
def in_runtime() -> Iterator[Process]:
    """The process of libedgeinfer."""
    with closing(Process()) as process:
        yield process


@pytest.fixture(scope="session")
def library() -> ctypes.CDLL:
    """The library of mobile/runtime/decode."""
    return compiled(DECODE)


@pytest.fixture
def library_with(tmp_path: Path) -> Callable[..., ctypes.CDLL]:
    """Compiles the library with a mistake: (source, the text to replace, its replacement)."""
    if SANITIZER:
        pytest.skip("a mistake may well be reported")
    return partial(mutant, tmp_path)
