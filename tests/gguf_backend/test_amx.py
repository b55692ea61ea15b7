"""Builds of llama.cpp with AMX: which types it takes, and those that would crash."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import BACKEND, amx, llama
from edgeinfer.backends.gguf.facts import FACTS
from edgeinfer.backends.gguf.kernels.library import types_with_kernels, why_not
from tests.gguf_backend.kernel_runs import DEVICE
from tests.tiny_gguf import write_tiny

GCC_12 = b"\0GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0"
GCC_13 = b"\0GCC: (Ubuntu 13.3.0-6ubuntu2~24.04.1) 13.3.0\0"


@pytest.fixture(params=["", "AMX_INT8"], ids=["without", "with"])
def built_with(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The library of a build with or without AMX, whose bytes a test may write."""
    library = tmp_path / "libggml-cpu.so"
    library.write_bytes(GCC_13)
    monkeypatch.setattr(amx, "cpu_library", lambda: library)
    monkeypatch.setattr(amx, "cpu_features", lambda: frozenset({"AVX2", request.param}))
    amx.would_crash.cache_clear()
    yield library
    amx.would_crash.cache_clear()


with_amx = pytest.mark.parametrize("built_with", ["AMX_INT8"], indirect=True)


@pytest.mark.parametrize(
    ("library", "expected"),
    [
        (GCC_12, True),
        (b"\0GCC: (GNU) 12.4.0\0", False),
        (b"\0GCC: (GNU) 13.2.1\0", True),
        (GCC_13, False),
        (b"\0GCC: (GNU) 9.4.0\0", True),
        (GCC_12 + b"Debian clang version 16.0.6\0", False),
        (b"", False),
    ],
)
def test_the_compiler_of_a_library_tells_whether_amx_crashes(library: bytes, expected: bool) -> None:
    assert amx.is_miscompiled(library) == expected


@pytest.mark.skipif(bool(why_not(DEVICE)), reason="needs kernels of our own")
def test_types_that_amx_multiplies_have_no_kernels_of_our_own_and_exact_rows(built_with: Path) -> None:
    has_amx = bool(amx.amx_types())
    assert ("Q4_0" in types_with_kernels()) != has_amx
    assert "F16" in types_with_kernels()
    assert FACTS.exact_rows(DEVICE, {"Q4_K", "IQ4_XS"}, "q8_0/f16") == (16 if has_amx else None)
    assert ("AMX" in BACKEND.report()) == has_amx


@with_amx
@pytest.mark.parametrize(("compiler", "expected"), [(GCC_12, False), (GCC_13, True)])
def test_amx_that_would_crash_is_not_used(
    built_with: Path, compiler: bytes, expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built_with.write_bytes(compiler)
    seen, load = [], llama.C.llama_model_load_from_file

    def spy(name: bytes, options: Any) -> Any:
        seen.append(options.use_extra_bufts)
        return load(name, options)

    monkeypatch.setattr(llama.C, "llama_model_load_from_file", spy)
    llama.load(write_tiny(tmp_path / "tiny.gguf")).close()
    assert seen == [expected]
    assert bool(amx.amx_types()) == expected
    assert ("left out" in BACKEND.report()["AMX"]) != expected
    assert not {"Q4_0", "Q4_K"} & set(types_with_kernels())  # that one multiplies repacked matrices
