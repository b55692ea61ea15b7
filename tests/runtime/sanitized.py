"""Runs the tests of the phone runtime with sanitizers: python -m tests.runtime.sanitized address,undefined [TEST ...]

Each report fails the run. Reports are written to files: pytest hides what a process prints, and a test may expect a
process to fail.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SANITIZER = os.environ.get("EDGEINFER_SANITIZER", "")
"""What the runtime is compiled with here, such as "address,undefined"; "" for a usual build."""
ROUNDS_ALIKE = ("-O1", "-fexpensive-optimizations")
"""Compiles quickly, and contracts products and sums as a release does, so that tokens are those of Python."""
_LIBRARIES = {"address": "libasan.so", "thread": "libtsan.so"}
_PYTHON_LEAKS = ":detect_leaks=0"


def flags_of(sanitizer: str) -> tuple[str, ...]:
    """UndefinedBehaviorSanitizer traps, and AddressSanitizer reports that: by itself it writes to no file."""
    return (f"-fsanitize={sanitizer}", "-fsanitize-undefined-trap-on-error", "-g1", *ROUNDS_ALIKE) if sanitizer else ()


FLAGS = flags_of(SANITIZER)


def of_python(sanitizer: str, environment: dict[str, str]) -> dict[str, str]:
    """`environment` for a Python process: a sanitizer's library must be loaded before any other."""
    libraries = [_of_compiler(library) for kind, library in _LIBRARIES.items() if kind in sanitizer]
    if not libraries:
        return environment
    preload = " ".join((*libraries, _of_compiler("libstdc++.so")))
    return {**environment, "LD_PRELOAD": preload, "ASAN_OPTIONS": environment["ASAN_OPTIONS"] + _PYTHON_LEAKS}


def start_programs_without_preload() -> None:
    """What this Python process starts has a sanitizer of its own, or none."""
    if SANITIZER:
        os.environ.pop("LD_PRELOAD", None)
        os.environ["ASAN_OPTIONS"] = os.environ["ASAN_OPTIONS"].removesuffix(_PYTHON_LEAKS)


def _of_compiler(name: str) -> str:
    done = subprocess.run(["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main(sanitizer: str, tests: Sequence[str]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        options = f"log_path={folder}/report:print_stacktrace=1"
        environment = {
            **os.environ,
            "EDGEINFER_SANITIZER": sanitizer,
            "ASAN_OPTIONS": f"{options}:handle_sigill=1",
            "TSAN_OPTIONS": f"{options}:ignore_noninstrumented_modules=1",  # Python and ExecuTorch
        }
        command = [sys.executable, "-m", "pytest", "-p", "no:faulthandler", *(tests or [str(Path(__file__).parent)])]
        code = subprocess.run(command, env=of_python(sanitizer, environment), check=False).returncode
        reports = sorted(Path(folder).iterdir())
        for report in reports:
            print(report.read_text(encoding="utf-8", errors="replace"))
    print(f"{len(reports)} reports of {sanitizer}")
    return code or int(bool(reports))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
