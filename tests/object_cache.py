"""Object files, compiled once for each preprocessed text, its options and its compiler.

As a program it stands between CMake and the compiler: CMAKE_CXX_COMPILER_LAUNCHER="python;tests/object_cache.py".
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[1] / ".pytest_cache/objects"
LAUNCHER = f"{sys.executable};-S;{Path(__file__).resolve()}"
_DEPENDENCIES = {"-MD": 0, "-MT": 1, "-MF": 1}
_SEEN_IN_THE_TEXT = {"-isystem": 1, "-I": 1, "-D": 1}
"""Options that change only the preprocessed text, with the number of arguments that follow."""


class CompilerError(Exception):
    """What the compiler printed."""


def compiled(compiler: str, sources: Iterable[Path], *flags: str) -> list[Path]:
    """The object file of each source. Raises CompilerError."""
    commands = [[compiler, *flags, "-c", str(source)] for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(_object, commands))


def linked(compiler: str, objects: Sequence[Path], *flags: str) -> Path:
    """A program, or with `-shared` a library. Raises CompilerError."""
    state = hashlib.sha256("\n".join((compiler, *flags, *(path.name for path in objects))).encode())
    return _kept(f"{state.hexdigest()[:24]}.so", [compiler, *flags, *map(str, objects)])


def _object(command: Sequence[str]) -> Path:
    """Of a command that compiles one source, without its `-o`. Dependencies are written where `-MF` says."""
    done = subprocess.run(
        ["-E" if argument == "-c" else argument for argument in (*command, "-P")], capture_output=True, check=False
    )
    if done.returncode:
        raise CompilerError(done.stderr.decode(errors="replace"))
    shorter = list(_without(command, _DEPENDENCIES))
    compiler, *options, _ = _without(shorter, _SEEN_IN_THE_TEXT)
    program = Path(shutil.which(compiler) or compiler).stat()
    state = hashlib.sha256(
        repr((compiler, program.st_size, program.st_mtime_ns, _alike(options))).encode() + done.stdout
    )
    return _kept(f"{state.hexdigest()[:24]}.o", shorter)


def _alike(options: Sequence[str]) -> list[str]:
    """The same list for options in another order: the last level of optimization counts, and no others contradict."""
    levels = [option for option in options if option.startswith("-O")]
    return sorted({*options} - {*levels}) + levels[-1:]


def _without(command: Sequence[str], options: dict[str, int]) -> Iterator[str]:
    """`-I/folder` and `-I /folder` alike."""
    arguments = iter(command)
    for argument in arguments:
        if argument in options:
            for _ in range(options[argument]):
                next(arguments)
        elif not any(argument.startswith(option) for option in options):
            yield argument


def _kept(name: str, command: Sequence[str]) -> Path:
    path = FOLDER / name
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as folder:
            made = Path(folder) / name
            done = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True, check=False)
            if done.returncode:
                raise CompilerError(done.stderr)
            made.replace(path)
    return path


def main(command: Sequence[str]) -> int:
    at = command.index("-o")
    try:
        shutil.copyfile(_object([*command[:at], *command[at + 2 :]]), command[at + 1])
    except CompilerError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
