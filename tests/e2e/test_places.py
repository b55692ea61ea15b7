"""Unusual surroundings: little memory, no home folder."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import environment

linux = pytest.mark.skipif(not Path("/proc/self/limits").exists(), reason="Linux only")


def limited(n_bytes: int, *args: str, home: Path) -> subprocess.CompletedProcess[bytes]:
    """The command under a limit of its address space."""
    return subprocess.run(
        [sys.executable, "-m", "edgeinfer", *args],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(home),
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes)),
        check=False,
    )


@linux
def test_the_plan_counts_a_limit_of_the_address_space(tmp_path: Path) -> None:
    ran = limited(360 << 20, "run", "--model", "demo", "-n", "1", "Hi", home=tmp_path)
    assert ran.returncode == 3, ran.stderr
    assert b"can give: limit of this process's address space (ulimit -v)\nhint: " in ran.stderr
    assert limited(1 << 30, "run", "--model", "demo", "-n", "1", "Hi", home=tmp_path).returncode == 0


@linux
def test_too_little_memory_to_start_is_reported(tmp_path: Path) -> None:
    ran = limited(150 << 20, "run", "--model", "demo", "-n", "1", "Hi", home=tmp_path)
    assert ran.returncode == 3, ran.stderr
    assert b"error: there is not enough memory to begin\nhint: " in ran.stderr


AS_NOBODY = """
import os, sys, runpy
import edgeinfer.cli.main, edgeinfer.cli.repl, edgeinfer.cli.lines, edgeinfer.cli.chat_command, edgeinfer.device.linux
sys.argv = ["edgeinfer", *sys.argv[1:]]
os.getuid = os.geteuid = lambda: 54321  # what expanduser asks the password database about
sys.exit(edgeinfer.cli.main.main())
"""


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX only")
@pytest.mark.parametrize(
    "command", [["list"], ["plan", "demo"], ["run", "--model", "demo", "-n", "1", "Hi"], ["chat", "demo"]]
)
def test_no_home_and_no_entry_in_the_password_database(tmp_path: Path, command: list[str]) -> None:
    env = environment(tmp_path)
    del env["HOME"]
    ran = subprocess.run(
        [sys.executable, "-c", AS_NOBODY, *command],
        input=b"/save ~/talk.json\n",
        capture_output=True,
        env=env,
        cwd=tmp_path,
        timeout=120,
        check=False,
    )
    assert b"unexpected" not in ran.stderr
    if command[0] == "chat":
        assert ran.returncode == 2
        assert b"error: the home folder in `~/talk.json` is not known\nhint: write the whole path" in ran.stderr
    else:
        assert ran.returncode == 0, ran.stderr
    assert list(tmp_path.iterdir()) == []
