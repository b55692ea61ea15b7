"""What the phone runtime is proven to do on processors that this machine does not have. Writes a report to stdout.

    python -m tools.check_processors FOLDER [BUNDLE ...]

FOLDER holds what the steps need; a step without it is skipped and says so:
    aarch64/   the unpacked wheel of `pip download --no-deps --platform manylinux_2_28_aarch64 --only-binary=:all:
               executorch==1.5.1`
    package/   `npm pack react-native-executorch@0.9.3`, unpacked: headers and a library for Android, for the check only
    zig/       `pip install --target FOLDER/zig ziglang`
and from Debian g++-aarch64-linux-gnu and qemu-user-static. BUNDLE is a phone bundle whose answers are compared.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeinfer.formats.hf_tokenizer import HfTokenizer
from tests import picks

ROOT = Path(__file__).resolve().parents[1]
RUNTIME = ROOT / "mobile/runtime"
ENGINE, DECODE = RUNTIME / "engine", RUNTIME / "decode"
CHECKS = ROOT / "tests/runtime"
ARM = "aarch64-linux-gnu"
CORES = ("max", "cortex-a76", "cortex-a72")
KV_TYPES = ("f32", "f16", "q8")
N_TOKENS = 8
ATTENTION_TOLERANCE = 2e-5  # of attention_check.cpp, against float64
TEXTS = (
    "Once upon a time there was a little dog who", "The capital of France is", "def add(a, b):\n    return",
    "Tom and Lily went to the park. They", "It was a dark night, and the", "My favorite food is",
    "She opened the door and saw", "The sun is", "One day, a girl named", "In the year 1990, the",
)  # fmt: skip


class SkippedError(Exception):
    """What is missing for a step."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Compiles for a processor and runs on it. `emulator` is empty for this machine."""

    name: str
    compiler: tuple[str, ...]
    executorch: Path  # the unpacked wheel
    emulator: tuple[str, ...] = ()

    def compile(self, sources: Sequence[Path], out: Path, *more: str) -> Path:
        flags = ("-std=c++17", "-O2", "-Wno-psabi", f"-I{ENGINE}", f"-I{DECODE}", f"-I{RUNTIME}")
        _run([*self.compiler, *flags, *map(str, sources), *more, "-o", str(out)])
        return out

    def run(self, program: Path, *arguments: str, stdin: bytes = b"") -> str:
        return _run([*self.emulator, str(program), *arguments], stdin)


@dataclass(frozen=True, slots=True)
class Answers:
    """Of one machine to the prompts: ids, how far the best logit was above the next, and the row after each prompt."""

    ids: list[list[int]]
    gaps: list[list[float]]
    rows: np.ndarray
    exact_rows: int


def _run(command: Sequence[str], stdin: bytes = b"") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)[:300]}: {done.stderr.decode(errors='replace')[-600:]}")
    return done.stdout.decode()


def _needed(tool: str, package: str) -> str:
    if (path := shutil.which(tool)) is None:
        raise SkippedError(f"there is no {tool}: `apt install {package}`")
    return path


def _folder(tools: Path, name: str) -> Path:
    if not (path := tools / name).is_dir():
        raise SkippedError(f"there is no folder {name} among the tools")
    return path


def aarch64(tools: Path, bundles: Sequence[Path], work: Path) -> Iterator[str]:
    """The libraries of ExecuTorch's own wheel for aarch64, under emulation."""
    emulator = _needed("qemu-aarch64-static", "qemu-user-static")
    compiler = _needed(f"{ARM}-g++", f"g++-{ARM}")
    arm = Machine("aarch64", (compiler,), _folder(tools, "aarch64") / "executorch")
    here = Machine("this machine", ("c++",), _executorch_here())
    programs = {machine.name: _programs(machine, work / machine.name) for machine in (arm, here)}
    expected = {path: _answers(here, programs[here.name], path, kv) for path in bundles for kv in KV_TYPES[:1]}
    for core in CORES:
        emulated = Machine(core, (), arm.executorch, (emulator, "-cpu", core, "-L", f"/usr/{ARM}"))
        built = programs[arm.name]
        yield f"`{core}`: {_picks(emulated, built / 'picks_check')}"
        emulated.run(built / "attention_check")
        yield (
            f"`{core}`: the operator's rows are within {ATTENTION_TOLERANCE:g} of float64, as on x86, for f32, f16 and "
            f"8-bit K and V, and equal bit for bit however many run together"
        )
        for path in bundles:
            yield f"`{core}`, {path.name}: {_compared(_answers(emulated, built, path, 'f32'), expected[path])}"


def _executorch_here() -> Path:
    import importlib.util

    spec = importlib.util.find_spec("executorch")
    if spec is None or not spec.submodule_search_locations:
        raise SkippedError("executorch is not installed here")
    return Path(next(iter(spec.submodule_search_locations)))


def _programs(machine: Machine, folder: Path) -> Path:
    """The engine as a library, and the check programs."""
    cross = (
        ("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_SYSTEM_PROCESSOR=aarch64", "-DCMAKE_FIND_ROOT_PATH_MODE_PACKAGE=BOTH")
        if machine.name == "aarch64"
        else ()
    )
    cmake = f"-DCMAKE_PREFIX_PATH={machine.executorch / 'lib/cmake'}"
    compiler = f"-DCMAKE_CXX_COMPILER={machine.compiler[0]}"
    _run(["cmake", "-S", str(ENGINE), "-B", str(folder), cmake, compiler, *cross])
    _run(["cmake", "--build", str(folder), "--target", "edgeinfer_engine"])
    libraries = f"{folder}:{machine.executorch / 'lib'}"
    link = (f"-L{folder}", "-ledgeinfer_engine", f"-Wl,-rpath,{libraries}", f"-Wl,-rpath-link,{libraries}",
            "-Wl,--allow-shlib-undefined")  # fmt: skip
    machine.compile([CHECKS / "processor_check.cpp"], folder / "processor_check", *link)
    sampler = [CHECKS / "picks_check.cpp", DECODE / "sampler.cpp"]
    machine.compile(sampler, folder / "picks_check", "-ffp-contract=off")
    x86 = ("-mavx2", "-mfma", "-mf16c") if machine.name == "this machine" else ()
    names = ("attention_portable.cpp", "attention_avx2.cpp", "storage.cpp")
    for name in names:
        more = x86 if "avx2" in name else ()
        machine.compile([ENGINE / name], folder / f"{name}.o", "-c", "-ffp-contract=fast", *more)
    objects = [folder / f"{name}.o" for name in names]
    machine.compile([ROOT / "tests/executorch/attention_check.cpp", *objects], folder / "attention_check")
    return folder


def _picks(machine: Machine, program: Path) -> str:
    lines = machine.run(program, stdin=picks.as_bytes()).splitlines()
    if wrong := picks.wrong_lines(lines):
        raise RuntimeError(f"{machine.name}: {len(wrong)} picks or functions differ, first {wrong[0]}")
    return f"all {picks.N_CASES:,} picks of the table are the same, and so are the bits of exp and log"


def _answers(machine: Machine, programs: Path, bundle: Path, kv_type: str) -> Answers:
    tokenizer = HfTokenizer(bundle)
    with tempfile.TemporaryDirectory() as folder:
        prompts, rows = Path(folder) / "prompts", Path(folder) / "rows"
        prompts.write_text("".join(" ".join(map(str, tokenizer.encode(text, special=False))) + "\n" for text in TEXTS))
        kind = str(KV_TYPES.index(kv_type))
        arguments = (str(bundle / "model.pte"), str(prompts), str(N_TOKENS), kind, str(rows))
        *lines, exact_rows = machine.run(programs / "processor_check", *arguments).splitlines()
        pairs = [[pair.split(":") for pair in line.split()] for line in lines]
        return Answers(
            [[int(token) for token, _ in line] for line in pairs],
            [[float(gap) for _, gap in line] for line in pairs],
            np.fromfile(rows, np.float32).reshape(len(TEXTS), -1),
            int(exact_rows),
        )


def _compared(found: Answers, expected: Answers) -> str:
    """An answer may part only where the two best tokens were closer than the rows of the machines are."""
    distance = float(np.abs(found.rows - expected.rows).max())
    parted = []
    for ids, others, gaps in zip(found.ids, expected.ids, expected.gaps, strict=True):
        at = next((at for at, (a, b) in enumerate(zip(ids, others, strict=True)) if a != b), None)
        if at is not None:
            parted.append(gaps[at])
    if any(gap > 2 * distance for gap in parted):
        raise RuntimeError(
            f"an answer parts where the best token leads by {max(parted):g}; rows differ by {distance:g}"
        )
    near = f"; the others part where the two best tokens are within {max(parted):.2g}" if parted else ""
    return (
        f"{len(TEXTS) - len(parted)} of {len(TEXTS)} answers have the tokens of x86{near}; rows differ by at most "
        f"{distance:.2g} (logits of standard deviation {expected.rows.std():.1f}); verifies of 1 to {found.exact_rows} "
        f"rows equal single rows bit for bit"
    )


def macos(tools: Path, bundles: Sequence[Path], work: Path) -> Iterator[str]:
    """Every source compiles for Apple's processors."""
    del bundles
    headers = _headers(_folder(tools, "aarch64") / "executorch/include")
    sources = _sources()
    for source in sources:
        _run([*_zig(tools), "-target", "aarch64-macos", *headers, "-c", str(source), "-o", str(work / "macos.o")])
    yield f"all {len(sources)} sources of `mobile/runtime` compile for aarch64-macos with Clang and libc++"


def android(tools: Path, bundles: Sequence[Path], work: Path) -> Iterator[str]:
    """What objects built with Clang and libc++ need of ExecuTorch, against a library for Android that is published."""
    del bundles
    nm = _needed(f"{ARM}-nm", f"binutils-{ARM}")
    package = _folder(tools, "package")
    libraries = sorted(package.rglob("arm64-v8a/libexecutorch.so"))
    includes = sorted(path.parent for path in package.rglob("include/executorch") if path.is_dir())
    if not libraries or not includes:
        raise SkippedError("the package holds no libexecutorch.so for arm64-v8a, or no headers")
    needed: set[str] = set()
    for source in ("engine.cpp", "operators.cpp", "log.cpp"):
        out = work / f"android-{source}.o"
        command = [*_zig(tools), "-target", "aarch64-linux-gnu", *_headers(includes[0])]
        _run([*command, "-c", str(ENGINE / source), "-o", str(out)])
        needed |= _symbols(nm, "-u", out)
    # libc++ is std::__1 in Clang's own build, and std::__ndk1 in Android's.
    wanted = {name.replace("St3__1", "St6__ndk1") for name in needed if "executorch" in name}
    missing = sorted(wanted - _symbols(nm, "-D", libraries[0], "--defined-only"))
    yield f"{len(wanted) - len(missing)} of the {len(wanted)} symbols of ExecuTorch that the engine needs are exported"
    yield from (f"missing: `{name}`" for name in missing)


def _zig(tools: Path) -> list[str]:
    compiler = _folder(tools, "zig") / "ziglang/zig"
    flags = ("-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", f"-I{RUNTIME}", f"-I{ENGINE}")
    return [str(compiler), "c++", *flags, '-DEDGEINFER_ENGINE_VERSION="0"']


def _headers(include: Path) -> list[str]:
    c10 = include / "executorch/runtime/core/portable_type/c10"
    return [f"-isystem{include}", f"-isystem{c10}", "-DC10_USING_CUSTOM_GENERATED_MACROS"]


def _sources() -> list[Path]:
    return [path for path in sorted(RUNTIME.rglob("*.cpp")) if "build" not in path.parts]


def _symbols(nm: str, flag: str, file: Path, *more: str) -> set[str]:
    return set(re.findall(r"\b(_Z\w+)", _run([nm, flag, *more, str(file)])))


STEPS: dict[str, Callable[[Path, Sequence[Path], Path], Iterator[str]]] = {
    "aarch64 under qemu": aarch64,
    "Apple": macos,
    "Android": android,
}


def report(tools: Path, bundles: Sequence[Path]) -> Iterator[str]:
    """Lines; those of a failed step hold FAILED."""
    yield "# The phone runtime on other processors\n"
    yield "Written by `python -m tools.check_processors`, which says what it needs. Emulation shows results, not speed;"
    yield "nothing here ran on a phone or on a Mac.\n"
    for title, step in STEPS.items():
        yield f"## {title}\n\n{(step.__doc__ or '').splitlines()[0]}\n"
        with tempfile.TemporaryDirectory() as work:
            try:
                for line in step(tools, bundles, Path(work)):
                    yield f"* {line}"
            except SkippedError as error:
                yield f"* skipped: {error}"
            except RuntimeError as error:
                yield f"* FAILED: {error}"
        yield ""


def main(tools: Path, bundles: Sequence[Path]) -> int:
    failed = False
    for line in report(tools, bundles):
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        failed = failed or "FAILED" in line
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]))
