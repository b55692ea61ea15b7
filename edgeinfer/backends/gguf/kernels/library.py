"""Compiles edgeinfer's kernels once, puts them in place in this process, and proves them there."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgeinfer.backends.gguf.amx import amx_types, would_crash
from edgeinfer.backends.gguf.exit.switch import SWITCH, may_patch
from edgeinfer.backends.gguf.probe import cpu_features
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.kept import write_whole
from edgeinfer.paths import cache_folder

__all__ = ["KERNELS", "install", "is_built", "remove", "types_with_kernels", "version", "why_not", "will_build"]

KERNELS: Final[Mapping[str, int]] = {  # by type of matrix: its ggml_type
    "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 8, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14
}  # fmt: skip
_REPACKED: Final = frozenset({"Q4_0", "Q4_K"})  # no matrix is, where AMX would crash
_NEED_VNNI: Final = frozenset({"Q4_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"})

_HEADERS: Final = ("kernels.h", "repacked.h", "side_by_side.h")
_SOURCES: Final = ("blocks.cpp", "f16.cpp", "k_blocks.cpp", "q4_0.cpp", "q4_K.cpp", "install.cpp")
_FLAGS: Final = ("-std=c++17", "-O3", "-fPIC", "-mavx2", "-mfma", "-mf16c")
_FLAGS_BY_FEATURE: Final[Mapping[str, Sequence[str]]] = {  # of the engine's build
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl"),
    "AVX512_VNNI": ("-mavx512vnni",),
}
_TIMEOUT_S: Final = 120
_AT_ONCE: Final = 3  # compilers
_BUILD_BYTES: Final = 600_000_000  # three compilers take up to 0.5 GB


def why_not(device: DeviceProfile) -> str:
    """Why this machine cannot have the kernels; "" if it can. Compiles and loads nothing.

    Raises UsageError for a switch that is neither on nor off.
    """
    if not device.has_avx2:
        return "they are for Linux on x86-64 with AVX2"
    return _why_not_built()


def types_with_kernels() -> Sequence[str]:
    """The types of matrices for which a kernel runs with this build of llama.cpp."""
    has_vnni = {"-mavx512vl", "-mavx512vnni"} <= set(_flags())
    others = amx_types() | (frozenset() if has_vnni else _NEED_VNNI) | (_REPACKED if would_crash() else frozenset())
    return [name for name in KERNELS if name not in others]


def version() -> str:
    """Of the kernels that this machine can have; "" if it can have none."""
    return "" if _why_not_built() else _digest()[:8]


def is_built() -> bool:
    try:
        return _path().exists()
    except (OSError, ImportError):
        return False


def will_build(device: DeviceProfile, types: Set[str]) -> bool:
    """Whether `install` will compile them first."""
    can_have = not types.isdisjoint(types_with_kernels()) and not why_not(device)
    return can_have and not is_built() and device.available_bytes >= _BUILD_BYTES


def install(device: DeviceProfile, types: Set[str]) -> Mapping[str, str]:
    """Put the kernels for matrices of `types` in place in this process, where they stay, once they have given the bits
    of ggml's.

    Returns why a kernel is not in place, by type; "" if it is. Types without a kernel are left out. Call it before a
    model is loaded, because the compilers need memory of their own.
    """
    wanted = [name for name in types_with_kernels() if name in types]
    if not wanted:
        return {}
    reason = why_not(device)
    if not reason and device.available_bytes < _BUILD_BYTES and not is_built():
        free = device.available_bytes // 10**6
        reason = f"to build them takes {_BUILD_BYTES // 10**6} MB of memory, and {free} MB are free"
    if reason:
        return dict.fromkeys(wanted, reason)
    path = _path()
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        reason = _why_not_kept_in(path.parent)
        if not reason and not path.exists():
            _build(path)
        if not reason and _others_may_write(path):
            reason = f"others may write to {path}"
        if reason:
            return dict.fromkeys(wanted, reason)
    except (OSError, subprocess.SubprocessError) as error:
        return dict.fromkeys(wanted, f"their library cannot be built: {_cause(error)}")
    try:
        library = _library()
    except OSError as error:
        path.unlink(missing_ok=True)
        return dict.fromkeys(wanted, f"their library was damaged, and the next start builds it again: {_cause(error)}")
    return {name: _install(library, name) for name in wanted}


def remove(types: Set[str]) -> None:
    """Let ggml's own kernels run again. `install` must have succeeded."""
    library = _library()
    for name in types & KERNELS.keys():
        library.edgeinfer_kernel_remove(KERNELS[name])


def _install(library: ctypes.CDLL, name: str) -> str:
    from edgeinfer.backends.gguf.kernels.self_test import self_test

    if not library.edgeinfer_kernel_install(KERNELS[name], _address_in_ggml()):
        return "this build of llama.cpp has no place for them"
    wrong = self_test(name, library)
    if wrong:
        library.edgeinfer_kernel_remove(KERNELS[name])
    return wrong


def _address_in_ggml() -> int | None:
    """Of a function of libggml-cpu: another package may have brought a library of the same name."""
    from edgeinfer.backends.gguf.llama import library_function

    return ctypes.cast(library_function("ggml_cpu_init", None), ctypes.c_void_p).value


def _why_not_built() -> str:
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "they are for Linux on x86-64 with AVX2"
    if not may_patch():
        return f"{SWITCH}=off forbids them"
    if cache_folder() is None:
        return "there is no cache folder for their library"
    return "" if _compiler() or is_built() else "there is no C++ compiler to build them"


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(str(_path()))
    library.edgeinfer_kernel_install.restype = ctypes.c_bool
    library.edgeinfer_kernel_install.argtypes = (ctypes.c_int, ctypes.c_void_p)
    return library


def _path() -> Path:
    return _folder() / f"{_digest()[:16]}.so"


def _why_not_kept_in(folder: Path) -> str:
    """Why a library from this folder is not loaded; "" if it may be."""
    if _others_may_write(folder) or any(map(_others_may_replace_in, folder.parents)):
        return f"others may write to {folder}, which holds their library, or to a folder above it"
    if os.statvfs(folder).f_flag & getattr(os, "ST_NOEXEC", 0):
        return f"no library may be loaded from {folder} (noexec)"
    return ""


def _others_may_write(path: Path) -> bool:
    """Whether another user could have made it, or can change it."""
    state = path.stat()
    return state.st_uid != os.geteuid() or bool(state.st_mode & 0o022)


def _others_may_replace_in(folder: Path) -> bool:
    """Whether another user can put something else in the place of what this folder holds. Its group is trusted: where
    every user has a group of their own, new folders may be written by it."""
    state = folder.stat()
    open_to_all = bool(state.st_mode & stat.S_IWOTH) and not state.st_mode & stat.S_ISVTX
    return state.st_uid not in (0, os.geteuid()) or open_to_all


def _build(path: Path) -> None:
    """Compile in a folder that only this user can reach. A library that cannot be loaded is not kept."""
    with tempfile.TemporaryDirectory() as folder:
        objects = {name: f"{folder}/{name}.o" for name in _SOURCES}
        compiler = [_compiler(), *_flags(), "-c", "-o"]
        commands = [[*compiler, made, str(Path(__file__).parent / name)] for name, made in objects.items()]
        for first in range(0, len(commands), _AT_ONCE):
            _run(*commands[first : first + _AT_ONCE])
        library = Path(folder) / path.name
        _run([_compiler(), "-shared", "-o", str(library), *objects.values()])
        write_whole(path, library.read_bytes(), mode=0o700, check=lambda part: ctypes.CDLL(str(part)))


def _run(*commands: Sequence[str]) -> None:
    """Run them at the same time. What they have started ends with them, also after Ctrl-C."""
    end = time.monotonic() + _TIMEOUT_S
    started: list[subprocess.Popen[str]] = []
    try:
        for command in commands:
            started.append(_started(command))
        for process in started:
            _, said = process.communicate(timeout=max(0.0, end - time.monotonic()))
            if process.returncode:
                raise subprocess.CalledProcessError(process.returncode, process.args, stderr=said)
    finally:
        for process in started:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.stderr is not None:
                process.stderr.close()


def _started(command: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        errors="replace", env={**os.environ, "LC_ALL": "C"}, process_group=0,
    )  # fmt: skip


def _digest() -> str:
    state = hashlib.sha256(" ".join(_flags()).encode())
    for name in (*_HEADERS, *_SOURCES):
        state.update((Path(__file__).parent / name).read_bytes())
    return state.hexdigest()


def _flags() -> tuple[str, ...]:
    """F16 vectors must be as wide as ggml's, because their width decides the order of additions."""
    features = cpu_features()
    more = [flag for feature, flags in _FLAGS_BY_FEATURE.items() if feature in features for flag in flags]
    return (*_FLAGS, *more)


def _folder() -> Path:
    return (cache_folder() or Path()) / "llama-kernels"


def _compiler() -> str:
    return next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), "")


def _cause(error: Exception) -> str:
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the compiler did not end in {_TIMEOUT_S} s"
    lines = [line.strip() for line in (getattr(error, "stderr", None) or str(error)).splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else type(error).__name__)[:300]
