"""Clang and the sanitizers: a C99 program runs, cancels and closes sessions concurrently."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from edgeinfer.formats.manifest import PROGRAM
from tests.executorch.exported import missing
from tests.runtime.built import SOURCES, runtime
from tests.runtime.sanitized import SANITIZER, flags_of

SOURCE = Path(__file__).with_name("threads.c")
pytestmark = pytest.mark.skipif(
    bool(missing()) or shutil.which("cc") is None, reason=missing() or "there is no C compiler"
)


@pytest.mark.skipif(shutil.which("clang++") is None, reason="there is no Clang")
def test_clang_compiles_it_without_a_warning(tiny: Path) -> None:
    done = runtime(compiler="clang++").run(str(tiny), "--tokens", "5,6,7", "--max-tokens", "3", "--temp", "0")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == runtime().run(str(tiny), "--tokens", "5,6,7", "--max-tokens", "3", "--temp", "0").stdout


@pytest.mark.parametrize("sanitizer", [SANITIZER] if SANITIZER else ["", "thread", "address,undefined"])
def test_sessions_in_threads_of_a_c_program_are_clean(tiny: Path, tmp_path: Path, sanitizer: str) -> None:
    flags = flags_of(sanitizer)
    library = runtime(*flags).library
    program = tmp_path / "threads"
    strict = ("-std=c99", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Werror", "-pedantic", "-pthread")
    link = (f"-L{library.parent}", "-ledgeinfer", f"-Wl,-rpath,{library.parent}")
    command = ["cc", *strict, *flags, f"-I{SOURCES}", str(SOURCE), "-o", str(program), *link]
    subprocess.run(command, check=True)
    broken = Path(shutil.copytree(tiny, tmp_path / "broken"))
    (broken / PROGRAM).write_bytes(bytes((tiny / PROGRAM).stat().st_size))
    command = [str(program), str(tiny), str(broken)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "as expected\n"), done.stderr[-4000:]
