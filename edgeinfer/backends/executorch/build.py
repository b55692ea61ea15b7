"""Compiles mobile/runtime/engine against the installed `executorch` wheel, once for each version of both.

The sources lie in `mobile/runtime/engine` of a checkout, and in `edgeinfer/runtime_engine/` of an installed wheel.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from edgeinfer.errors import BackendError, EngineError
from edgeinfer.paths import cache_folder

LIBRARY = "libedgeinfer_engine.so"
_TIMEOUT_S = 600
_INSTALL = "pip install 'edgeinfer[executorch]'"
_COMPILER = "install cmake and a C++ compiler, for example `apt install cmake g++`"


def executorch_version() -> str:
    """Raises BackendError where the wheel is not installed."""
    try:
        return version("executorch")
    except PackageNotFoundError as error:
        raise BackendError("executorch is not installed", hint=_INSTALL) from error


def check_buildable() -> None:
    """Raise BackendError, with what to install, where the engine is not compiled and cannot be."""
    if built_library().exists():
        return
    missing = [tool for tool in ("cmake", "make") if shutil.which(tool) is None]
    if not any(shutil.which(compiler) for compiler in ("c++", "g++", "clang++")):
        missing.append("a C++ compiler")
    if missing:
        raise BackendError(f"its engine must be compiled, and this machine lacks {', '.join(missing)}", hint=_COMPILER)


def built_library() -> Path:
    """Where the compiled engine is, or would be. The name changes with its sources and with the wheel."""
    state = hashlib.sha256(executorch_version().encode())
    for source in sorted(source_folder().iterdir()):
        state.update(source.name.encode() + source.read_bytes())
    folder = cache_folder()
    if folder is None:
        raise BackendError("there is no cache folder for its compiled engine", hint="set XDG_CACHE_HOME")
    return folder / "executorch" / state.hexdigest()[:16] / LIBRARY


def engine_library() -> Path:
    """The compiled engine; compiles it when it is not there, which takes about a minute.

    Raises BackendError without a compiler and EngineError with the compiler's first error.
    """
    path = built_library()
    if path.exists():
        return path
    check_buildable()
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent.parent) as folder:
        build = Path(folder) / "build"
        _run(["cmake", "-S", str(source_folder()), "-B", str(build), f"-DCMAKE_PREFIX_PATH={_cmake_folder()}"])
        _run(["cmake", "--build", str(build)])
        path.parent.mkdir(exist_ok=True)
        (build / LIBRARY).replace(path)
    return path


def source_folder() -> Path:
    """Raises EngineError when the installation has no sources."""
    package = Path(__file__).resolve().parents[2]
    for folder in (package / "runtime_engine", package.parent / "mobile/runtime/engine"):
        if (folder / "engine.h").is_file():
            return folder
    raise EngineError(f"no engine sources in {package} or beside it", hint="install edgeinfer again")


def _cmake_folder() -> Path:
    spec = importlib.util.find_spec("executorch")  # finds the folder without importing it
    if spec is None or not spec.submodule_search_locations:
        raise BackendError("executorch is not installed", hint=_INSTALL)
    return Path(next(iter(spec.submodule_search_locations))) / "lib/cmake"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"the engine could not be compiled: {error}") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).splitlines()
        cause = next((line.strip() for line in lines if "rror" in line), "no error was printed")
        raise EngineError(
            f"the engine does not compile: {cause[:300]}", hint=f"run `{' '.join(command)}` to see every error"
        )
