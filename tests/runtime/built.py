"""The phone runtime, compiled once per state of sources and options, and kept in pytest's cache folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from filelock import FileLock

from edgeinfer.backends.executorch.build import _cmake_folder, executorch_version
from tests.executorch.exported import ROOT
from tests.object_cache import LAUNCHER, compiled, linked

SOURCES = ROOT / "mobile/runtime"
KEPT = ROOT / ".pytest_cache/runtime"
COMPILER = shutil.which("c++")
AS_CMAKE_DOES = ("-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-psabi")
"""The options of CMakeLists.txt, so that the same objects serve."""


@dataclass(frozen=True, slots=True)
class Runtime:
    folder: Path

    @property
    def library(self) -> Path:
        return self.folder / "libedgeinfer.so"

    @property
    def program(self) -> Path:
        return self.folder / "edgeinfer-run"

    def run(self, *arguments: str, lines: str = "") -> subprocess.CompletedProcess[str]:
        """`lines` are standard input. `auto` would write a note that depends on the speed of the machine."""
        drafting = () if "--draft" in arguments else ("--draft", "lookup")
        command = [str(self.program), *arguments, *drafting]
        return subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=120)


@cache
def runtime(*flags: str, compiler: str = "c++") -> Runtime:
    """Warnings are errors. `flags` go to the compiler and the linker."""
    state = hashlib.sha256(repr((executorch_version(), flags, compiler)).encode())
    for source in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        state.update(source.name.encode() + source.read_bytes())
    kept = KEPT / state.hexdigest()[:16]
    KEPT.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{kept}.lock"), tempfile.TemporaryDirectory(dir=KEPT) as folder:
        if not kept.exists():
            built = Runtime(Path(folder) / "build")
            build(SOURCES, built.folder, flags, compiler)
            made = Path(folder) / kept.name
            made.mkdir()
            for file in (built.library, built.program):
                file.rename(made / file.name)
            made.rename(kept)
    return Runtime(kept)


def build(sources: Path, folder: Path, flags: tuple[str, ...] = (), compiler: str = "c++") -> None:
    """Compiles `sources` in `folder`, what changed since the last time."""
    options = {
        "CMAKE_BUILD_TYPE": "Given" if flags else "Release",  # which would override the level of `flags`
        "CMAKE_PREFIX_PATH": str(_cmake_folder()),
        "CMAKE_COMPILE_WARNING_AS_ERROR": "ON",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_CXX_COMPILER_LAUNCHER": LAUNCHER,
        "CMAKE_CXX_FLAGS": " ".join(flags),
    }
    configure = [
        "cmake",
        "-S",
        str(sources),
        "-B",
        str(folder),
        *(f"-D{key}={value}" for key, value in options.items()),
    ]
    for command in (configure, ["cmake", "--build", str(folder), "-j", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def without_executorch(sources: Sequence[Path], interface: Path, *flags: str, link: Sequence[str] = ()) -> Path:
    """A program, or with `link` a library, of a part of the runtime and the `interface` of its tests."""
    assert COMPILER is not None
    objects = compiled(COMPILER, sources, *AS_CMAKE_DOES, "-fvisibility=hidden", *flags)
    objects += compiled(COMPILER, [interface], *AS_CMAKE_DOES, *flags)
    return linked(COMPILER, objects, *flags, *link)


@dataclass(frozen=True, slots=True)
class CompiledCopy:
    """A copy of sources with what was compiled of them. A mistake compiles again only what it changes."""

    sources: Path
    compiled: Path
    flags: tuple[str, ...]

    @classmethod
    def of(cls, sources: Path, folder: Path, *flags: str) -> CompiledCopy:
        copy = cls(Path(shutil.copytree(sources, folder / "sources")), folder / "build", flags)
        build(copy.sources, copy.compiled, flags)
        return copy

    @contextmanager
    def mistake(self, file: str, before: str, after: str) -> Iterator[None]:
        source = self.sources / file
        text = source.read_text(encoding="utf-8")
        assert before in text
        try:
            source.write_text(text.replace(before, after), encoding="utf-8")
            build(self.sources, self.compiled, self.flags)
            yield
        finally:
            source.write_text(text, encoding="utf-8")
