"""Builds the wheel of llama-cpp-python with llama and ggml only: `.venv/bin/python tools/build_llama.py WHEELS`.

The source and the build tree are kept beside WHEELS, so an interrupted build continues where it stopped.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Final, TextIO

ROOT: Final = Path(__file__).parents[1]
NINJA_STEP: Final = re.compile(r"\[(\d+)/(\d+)\] ")
LOG_TAIL: Final = 30  # lines shown when the build fails


def main(wheels: Path) -> int:
    version = pinned_version()
    if any(wheels.glob(f"llama_cpp_python-{version}-*.whl")):
        return 0
    work = wheels.parent / "llama-cpp"
    source = work / f"llama_cpp_python-{version}"
    if not source.is_dir():
        only_source = ("--no-deps", "--no-build-isolation", "--no-binary", "llama-cpp-python")
        pip("download", "-qq", *only_source, "--dest", work, f"llama-cpp-python=={version}")
        unpack(work / f"llama_cpp_python-{version}.tar.gz", source)
    command = [
        *(sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--verbose", "--no-deps"),
        *("--no-build-isolation", "--wheel-dir", wheels, "-C", f"build-dir={work / 'build'}"),
        *("-C", "cmake.define.LLAVA_BUILD=OFF"),
        *("-C", f"cmake.define.CMAKE_PROJECT_llama.cpp_INCLUDE={Path(__file__).with_name('llama_only.cmake')}"),
        source,
    ]
    return build([str(part) for part in command], work / "build.log")


def pinned_version() -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    (requirement,) = (item for item in extras["gguf"] if item.startswith("llama-cpp-python=="))
    return str(requirement.partition("==")[2])


def pip(*arguments: str | Path) -> None:
    subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)], check=True)


def unpack(archive: Path, source: Path) -> None:
    """All of it or nothing: the folder gets its name last."""
    part = source.with_name(f"{source.name}.part")
    part.mkdir(exist_ok=True)
    subprocess.run(["tar", "-xzf", archive, "-C", part], check=True)
    (part / source.name).rename(source)
    part.rmdir()


def build(command: list[str], log: Path) -> int:
    """Run `command` with its output in `log` and a line of progress here. Show the end of the log when it fails."""
    with (
        log.open("w", encoding="utf-8") as out,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as run,
    ):
        show_progress(run.stdout or (), out)
    if run.returncode != 0:
        tail = log.read_text(encoding="utf-8").splitlines()[-LOG_TAIL:]
        sys.stderr.write("\n".join([*tail, f"error: building llama.cpp failed; all of its output: {log}", ""]))
    return run.returncode


def show_progress(lines: Iterable[str], log: TextIO) -> None:
    """On a terminal one line that moves; elsewhere a line for every tenth of the build."""
    moves, shown = sys.stdout.isatty(), -1
    for line in lines:
        log.write(line)
        if found := NINJA_STEP.search(line):
            done, total = (int(number) for number in found.groups())
            tenth = 10 * done // total
            if moves or tenth > shown:
                sys.stdout.write(
                    ("\r" if moves else "") + f"building llama.cpp {done}/{total}" + ("" if moves else "\n")
                )
                sys.stdout.flush()
            shown = tenth
    if moves and shown >= 0:
        sys.stdout.write("\n")


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]).absolute()))
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
