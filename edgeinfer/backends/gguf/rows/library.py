"""Compiles the F16 rows once, puts them in place in this process, and proves them there."""

from __future__ import annotations

import ctypes
import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from edgeinfer.backends.gguf.exit.switch import SWITCH, may_patch
from edgeinfer.backends.gguf.probe import library_versions
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.paths import cache_folder

__all__ = ["install", "remove", "why_not"]

_SOURCES: Final = ("rows.h", "rows.cpp", "install.cpp")
_FLAGS: Final = ("-std=c++17", "-O3", "-fPIC", "-shared", "-mavx2", "-mfma", "-mf16c")
_AVX512_FLAGS: Final = ("-mavx512f",)
_TIMEOUT_S: Final = 120


def why_not(device: DeviceProfile) -> str:
    """Why this machine cannot have the rows; "" if it can. Compiles and loads nothing.

    Raises UsageError for a switch that is neither on nor off.
    """
    if sys.platform != "linux" or platform.machine() != "x86_64" or not device.has_avx2:
        return "they are for Linux on x86-64 with AVX2"
    if not may_patch():
        return f"{SWITCH}=off forbids them"
    if cache_folder() is None:
        return "there is no cache folder for their library"
    return "" if _compiler() or any(_folder().glob("*.so")) else "there is no C++ compiler to build them"


def install(device: DeviceProfile) -> str:
    """Put the rows in place in this process, where they stay, once they have given the bits of single rows.

    Returns why they are not in place; "" if they are.
    """
    from edgeinfer.backends.gguf.rows.self_test import self_test

    reason = why_not(device)
    if reason:
        return reason
    try:
        library = _library()
    except (OSError, subprocess.SubprocessError) as error:
        return f"their library cannot be built: {_cause(error)}"
    if not library.edgeinfer_rows_install():
        return "this build of llama.cpp has no place for them"
    wrong = self_test()
    if wrong:
        library.edgeinfer_rows_remove()
    return wrong


def remove() -> None:
    """Put ggml's rows back. `install` must have succeeded."""
    _library().edgeinfer_rows_remove()


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_compiled()))
    library.edgeinfer_rows_install.restype = ctypes.c_bool
    return library


def _compiled() -> Path:
    flags = _flags()
    state = hashlib.sha256(" ".join(flags).encode())
    for name in _SOURCES:
        state.update((Path(__file__).parent / name).read_bytes())
    path = _folder() / f"{state.hexdigest()[:16]}.so"
    if not path.exists():
        _folder().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=_folder()) as folder:
            made = Path(folder) / path.name
            sources = [str(Path(__file__).parent / name) for name in _SOURCES if name.endswith(".cpp")]
            command = [_compiler(), *flags, "-o", str(made), *sources]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
            made.replace(path)
    return path


def _flags() -> tuple[str, ...]:
    """A vector must be as wide as ggml's, because its width decides the order of additions."""
    wide = "AVX512" in library_versions()["llama.cpp features"].split(", ")
    return (*_FLAGS, *(_AVX512_FLAGS if wide else ()))


def _folder() -> Path:
    return (cache_folder() or Path()) / "llama-rows"


def _compiler() -> str:
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), "")


def _cause(error: Exception) -> str:
    lines = [line.strip() for line in (getattr(error, "stderr", None) or str(error)).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else type(error).__name__)[:300]
