"""The phone runtime, compiled once for its sources and options, and kept in pytest's cache folder."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from edgeinfer.backends.executorch.build import _cmake_folder, executorch_version
from tests.executorch.exported import ROOT

SOURCES = ROOT / "mobile/runtime"
KEPT = ROOT / ".pytest_cache/runtime"


@dataclass(frozen=True, slots=True)
class Runtime:
    folder: Path

    @property
    def library(self) -> Path:
        return self.folder / "libedgeinfer.so"

    @property
    def program(self) -> Path:
        return self.folder / "edgeinfer-run"

    def run(self, *arguments: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        command = [str(self.program), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)


@cache
def runtime(*flags: str, compiler: str = "c++") -> Runtime:
    """Warnings are errors. `flags` go to the compiler and the linker."""
    state = hashlib.sha256(repr((executorch_version(), flags, compiler)).encode())
    for source in sorted(path for path in SOURCES.rglob("*") if path.is_file()):
        state.update(source.name.encode() + source.read_bytes())
    kept = KEPT / state.hexdigest()[:16]
    if not kept.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=KEPT) as folder:
            build(Path(folder), flags, compiler)
            shutil.move(folder, kept)
            Path(folder).mkdir()
    return Runtime(kept)


def build(folder: Path, flags: tuple[str, ...], compiler: str) -> None:
    options = {
        "CMAKE_PREFIX_PATH": str(_cmake_folder()),
        "CMAKE_COMPILE_WARNING_AS_ERROR": "ON",
        "CMAKE_CXX_COMPILER": compiler,
        "CMAKE_CXX_FLAGS": " ".join(flags),
    }
    configure = [
        "cmake",
        "-S",
        str(SOURCES),
        "-B",
        str(folder),
        *(f"-D{key}={value}" for key, value in options.items()),
    ]
    for command in (configure, ["cmake", "--build", str(folder), "-j", "2"]):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
