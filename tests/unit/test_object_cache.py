"""The cache of object files: what is compiled again, and what is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import object_cache
from tests.object_cache import CompilerError, compiled, linked

COMPILER = shutil.which("c++")
pytestmark = pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler")


@pytest.fixture
def counting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, Callable[[], int]]:
    """A compiler, and how often it compiled."""
    monkeypatch.setattr(object_cache, "FOLDER", tmp_path / "cache")
    compiler, calls = tmp_path / "compiler", tmp_path / "calls"
    compiler.write_text(f'#!/bin/sh\ncase "$*" in *-E*) ;; *) echo >> {calls};; esac\nexec {COMPILER} "$@"\n')
    compiler.chmod(0o755)
    return str(compiler), lambda: len(calls.read_text().splitlines()) if calls.exists() else 0


def write(folder: Path, value: int) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "value.h").write_text(f"#define VALUE {value}\n")
    (folder / "a.cpp").write_text('#include "value.h"\nextern "C" int value() { return VALUE; }\n')
    return folder / "a.cpp"


def test_equal_text_is_compiled_once(tmp_path: Path, counting: tuple[str, Callable[[], int]]) -> None:
    compiler, n_compiled = counting
    first = compiled(compiler, [write(tmp_path / "one", 1)], f"-I{tmp_path}")
    assert compiled(compiler, [write(tmp_path / "other", 1)], "-isystem", str(tmp_path)) == first
    assert n_compiled() == 1


def test_another_header_option_or_compiler_compiles_again(
    tmp_path: Path, counting: tuple[str, Callable[[], int]]
) -> None:
    compiler, n_compiled = counting
    found = [
        *compiled(compiler, [write(tmp_path / "one", 1)]),
        *compiled(compiler, [write(tmp_path / "one", 2)]),
        *compiled(compiler, [tmp_path / "one/a.cpp"], "-O1"),
        *compiled(str(COMPILER), [tmp_path / "one/a.cpp"], "-O1"),
    ]
    assert len(set(found)) == 4
    assert n_compiled() == 3


def test_what_does_not_compile_is_not_kept(tmp_path: Path, counting: tuple[str, Callable[[], int]]) -> None:
    compiler, _ = counting
    source = tmp_path / "wrong.cpp"
    source.write_text("int f() { int unused; return 0; }\n")
    for _ in range(2):
        with pytest.raises(CompilerError, match="unused"):
            compiled(compiler, [source], "-Wall", "-Werror")
    with pytest.raises(CompilerError, match="main"):
        linked(compiler, compiled(compiler, [source]))


def test_as_the_launcher_of_cmake(tmp_path: Path) -> None:
    """The object goes where the command says, and the dependencies are written each time."""
    source = write(tmp_path / "one", 1)
    out, dependencies = tmp_path / "a.o", tmp_path / "a.d"
    launcher = [sys.executable, "-S", object_cache.__file__]
    command = [
        *launcher,
        str(COMPILER),
        "-MD",
        "-MT",
        "a.o",
        "-MF",
        str(dependencies),
        "-o",
        str(out),
        "-c",
        str(source),
    ]
    for _ in range(2):
        subprocess.run(command, check=True)
        assert out.read_bytes().startswith(b"\x7fELF") or sys.platform != "linux"
        assert "one/value.h" in dependencies.read_text()
        out.unlink()
        dependencies.unlink()
    source.write_text("wrong")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "error" in done.stderr and not out.exists()
