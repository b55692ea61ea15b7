"""README.md is true: its plan is what the program prints, its Python runs, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

from edgeinfer.cli.main import COMMANDS
from tests.e2e.conftest import ROOT, environment, one_core

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_plan_is_what_the_program_prints(tmp_path: Path) -> None:
    (block,) = re.findall(r"```\n\$ edgeinfer (plan --device .*)\n((?:.|\n)*?)```", README)
    command, shown = block
    ran = subprocess.run(
        [sys.executable, "-m", "edgeinfer", *command.split()],
        capture_output=True,
        env=environment(tmp_path),
        check=True,
    )
    assert set(shown.strip().splitlines()) <= set(ran.stdout.decode().splitlines())


def test_the_python_runs(tmp_path: Path) -> None:
    (code,) = (one for one in re.findall(r"```python\n((?:.|\n)*?)```", README) if "import edgeinfer" in one)
    ran = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],
        capture_output=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        preexec_fn=one_core,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    assert "length" in ran.stdout.decode() or "stop" in ran.stdout.decode()


def test_the_commands_exist() -> None:
    named = set(re.findall(r"`edgeinfer ([a-z]+)", README))
    assert named
    assert named <= set(COMMANDS)
