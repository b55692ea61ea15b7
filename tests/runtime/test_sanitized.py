"""A report of a sanitizer fails the run, in a program whose end no test looks at and in a library that Python loads."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.object_cache import compiled, linked
from tests.runtime.sanitized import SANITIZER, flags_of, main

COMPILER = shutil.which("c++")
pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="there is no C++ compiler"),
    pytest.mark.skipif(bool(SANITIZER), reason="this is such a run"),
]

SOURCE = """
volatile int* volatile two;
extern "C" int act() {{ two = new int[2](); {act} }}
int main() {{ act(); }}
"""
SOUND = "delete[] two; return 0;"
PAST_THE_END = "return two[2];"
LEAK = "for (int i = 0; i < 9; ++i) two = new int[2](); two = nullptr; return 0;"
OVERFLOW = "delete[] two; volatile int largest = 2147483647; return largest + 1;"
STARTED = """
import subprocess
from tests.runtime.sanitized import start_programs_without_preload

def test_it():
    start_programs_without_preload()
    subprocess.run([{made!r}])
"""
LOADED = "import ctypes\ndef test_it(): ctypes.CDLL({made!r}).act()"


@pytest.mark.parametrize(
    ("test", "act", "report"),
    [
        pytest.param(STARTED, SOUND, "", id="sound program"),
        pytest.param(STARTED, PAST_THE_END, "heap-buffer-overflow", id="program past the end"),
        pytest.param(STARTED, LEAK, "detected memory leaks", id="program that leaks"),
        pytest.param(STARTED, OVERFLOW, "AddressSanitizer: ILL", id="program with undefined behavior"),
        pytest.param(LOADED, SOUND, "", id="sound library"),
        pytest.param(LOADED, PAST_THE_END, "heap-buffer-overflow", id="library past the end"),
        pytest.param(LOADED, OVERFLOW, "AddressSanitizer: ILL", id="library with undefined behavior"),
    ],
)
def test_what_is_reported(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    test: str,
    act: str,
    report: str,
) -> None:
    assert COMPILER is not None
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # they import for seconds
    source = tmp_path / "act.cpp"
    source.write_text(SOURCE.format(act=act))
    flags = flags_of("address,undefined")
    objects = compiled(COMPILER, [source], *flags, "-fPIC")
    made = linked(COMPILER, objects, *flags, *(["-shared"] if test == LOADED else []))
    (tmp_path / "test_it.py").write_text(test.format(made=str(made)))
    code = main("address,undefined", [str(tmp_path / "test_it.py"), f"--rootdir={tmp_path}"])
    printed = capsys.readouterr().out
    assert bool(code) == bool(report)
    assert report in printed and f"{int(bool(report))} reports of address,undefined" in printed
