"""The library of kernels: how it is built and kept, and what happens where that goes wrong."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf import BACKEND
from edgeinfer.backends.gguf.kernels import library
from edgeinfer.backends.gguf.kernels.library import install, why_not
from edgeinfer.plan.types import Request
from edgeinfer.runner.choose import choose
from tests.gguf_backend.kernel_runs import DEVICE, needs_kernels, run
from tests.tiny_gguf import Tiny, write_tiny

pytestmark = needs_kernels

INSTALL = """
from edgeinfer.backends.gguf.kernels.library import install
from edgeinfer.device import detect
print(install(detect(), {"Q4_0"}))
"""


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that was built with a umask that lets the group write to new files."""
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        before = os.umask(0o002)
        try:
            assert reason() == ""
        finally:
            os.umask(before)
    (path,) = folder.rglob("*.so")
    return path


@pytest.fixture
def path(built: Path, cache: Path) -> Path:
    """The same library in this test's cache."""
    shutil.copytree(built.parent, cache / "edgeinfer" / built.parent.name)
    return cache / "edgeinfer" / built.parent.name / built.name


def use_compiler(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    compiler = folder / "c++"
    compiler.write_text(f"#!/bin/bash\n{script}\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def kept(cache: Path) -> list[str]:
    return [path.suffix for path in cache.glob("edgeinfer/llama-kernels/**/*")]


def reason() -> str:
    return install(DEVICE, {"Q4_0"})["Q4_0"]


def test_only_this_user_may_write_to_it(built: Path) -> None:
    assert (built.stat().st_mode & 0o777, built.parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert [file.name for file in built.parent.iterdir()] == [built.name]


def test_it_is_built_once(path: Path) -> None:
    before = path.stat()
    assert reason() == ""
    assert path.stat().st_ino == before.st_ino


def test_a_user_who_waits_for_the_compiler_is_told(built: Path, cache: Path, tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", Tiny(tier="Q4_0"))
    plan = choose(Request(model=str(model), context=512, backend="gguf"), offline=True)
    assert BACKEND.before_load(plan, model) == "compiling kernels for this processor, once; this takes some seconds"
    short = replace(plan, device=replace(plan.device, available_bytes=500_000_000))
    assert BACKEND.before_load(short, model) == ""
    shutil.copytree(built.parent, cache / "edgeinfer" / built.parent.name)
    assert BACKEND.before_load(plan, model) == ""


def test_two_processes_build_it_at_once(cache: Path) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", INSTALL], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0] for process in processes] == ["{'Q4_0': ''}\n"] * 2
    assert kept(cache) == [".so"]


def test_it_is_put_in_place_where_symbols_are_bound_at_once(path: Path) -> None:
    assert run(INSTALL, LD_BIND_NOW="1") == "{'Q4_0': ''}\n"


STAND_IN = """
extern "C" __attribute__((visibility("default"))) bool llamafile_sgemm(
    const void *, long, long, long, const void *, long, const void *, long, void *, long, int, int, int) {
    return false;
}
extern "C" bool product(const void *threads, const void *matrix, const void *inputs, void *out) {
    return llamafile_sgemm(threads, 1, 2, 1, matrix, 1, inputs, 1, out, 1, 1, 1, 0);
}
"""
IN_STAND_IN = """
import ctypes
import sys
import numpy as np

own, *stand_ins = map(ctypes.CDLL, sys.argv[1:])

def product(library):
    library.product.restype = ctypes.c_bool
    matrix, inputs, out = np.array([3], np.float16), np.array([2, 5], np.float16), np.zeros(2, np.float32)
    threads = (ctypes.c_int * 2)(0, 1)
    is_done = library.product(threads, *(ctypes.c_void_p(array.ctypes.data) for array in (matrix, inputs, out)))
    return is_done, out.tolist()

address = ctypes.cast(stand_ins[1].product, ctypes.c_void_p)
own.edgeinfer_kernel_install.restype = ctypes.c_bool
print(own.edgeinfer_kernel_install(1, address), *map(product, stand_ins))
"""


@pytest.mark.parametrize("flags", [["-Wl,-z,lazy"], ["-Wl,-z,relro,-z,now"]], ids=["lazy", "read-only"])
def test_only_the_library_of_the_address_is_changed(flags: list[str], path: Path, tmp_path: Path) -> None:
    """Also where its table is read-only."""
    source = tmp_path / "stand_in.cpp"
    source.write_text(STAND_IN)
    libraries = [tmp_path / "libggml-cpu.so.0", tmp_path / "another.so"]
    for made in libraries:
        subprocess.run(["c++", "-shared", "-fPIC", *flags, "-o", str(made), str(source)], check=True)
    found = run(IN_STAND_IN, str(path), *map(str, libraries))
    assert found == "True (False, [0.0, 0.0]) (True, [6.0, 15.0])\n"


def test_a_compiler_that_hangs_is_ended_with_what_it_started(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    use_compiler(monkeypatch, tmp_path, f"echo working >&2; sleep 50 > {pipe} & sleep 50")
    monkeypatch.setattr(library, "_TIMEOUT_S", 1)
    assert reason() == "their library cannot be built: the compiler did not end in 1 s"
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b""  # no process holds the pipe any more
    os.close(reader)
    assert not kept(cache)


@pytest.mark.parametrize("script", ["exit 0", 'for last; do :; done; while [ "$1" != -o ]; do shift; done; : > "$2"'])
def test_a_compiler_that_makes_no_library_leaves_nothing(
    script: str, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    use_compiler(monkeypatch, tmp_path, script)
    assert reason().startswith("their library cannot be built: ")
    assert not kept(cache)


def test_a_compiler_is_asked_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use_compiler(monkeypatch, tmp_path, 'read line || echo "error: there is nobody to answer in $LC_ALL" >&2; exit 1')
    assert reason() == "their library cannot be built: error: there is nobody to answer in C"


def test_a_damaged_library_is_built_again_at_the_next_start(cache: Path, path: Path) -> None:
    path.write_bytes(b"")
    assert "was damaged, and the next start builds it again" in reason()
    assert not kept(cache)


@pytest.mark.parametrize("shared", ["folder", "file", "folder above"])
def test_a_library_that_others_may_write_is_not_loaded(shared: str, cache: Path, path: Path) -> None:
    {"folder": path.parent, "file": path, "folder above": cache}[shared].chmod(0o777)
    folder = f"others may write to {path.parent}, which holds their library, or to a folder above it"
    assert reason() == (f"others may write to {path}" if shared == "file" else folder)


def test_nothing_is_built_in_a_folder_of_another_user(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: user + 1)
    assert reason().startswith("others may write to ")
    assert not kept(cache)


def test_a_sticky_folder_above_is_no_danger(cache: Path, path: Path) -> None:
    cache.chmod(0o1777)
    assert reason() == ""


def test_a_folder_without_execution_is_named(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = os.statvfs(cache.parent)
    noexec = os.statvfs_result((*found[:8], found.f_flag | os.ST_NOEXEC, found[9]))
    monkeypatch.setattr(os, "statvfs", lambda _: noexec)
    assert reason() == f"no library may be loaded from {cache / 'edgeinfer/llama-kernels'} (noexec)"
    assert not kept(cache)


def test_a_full_disk_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert reason() == "their library cannot be built: [Errno 28] No space left on device"
    assert not kept(cache)


def test_a_home_that_cannot_be_written_is_named(cache: Path) -> None:
    cache.write_text("a file")
    assert reason().startswith("their library cannot be built: [Errno 20] Not a directory")
    assert why_not(DEVICE) == ""  # there is a compiler


def test_the_library_of_another_version_is_not_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = cache / "edgeinfer/llama-kernels"
    folder.mkdir(parents=True)
    (folder / "0123456789abcdef.so").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert why_not(DEVICE) == "there is no C++ compiler to build them"
    library._path().touch()
    assert why_not(DEVICE) == ""
