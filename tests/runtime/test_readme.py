"""The example of mobile/README.md compiles unchanged and runs with a bundle."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.executorch.exported import ROOT
from tests.runtime.built import SOURCES, Runtime
from tests.runtime.sanitized import FLAGS


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_ten_lines_from_a_bundle_to_a_token(built: Runtime, demo: Path, tmp_path: Path) -> None:
    (example,) = re.findall(r"```c\n(.*?)```", (ROOT / "mobile/README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "app.c").write_text(example)
    (tmp_path / "demo-phone").symlink_to(demo)
    strict = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
    link = (f"-L{built.folder}", "-ledgeinfer", f"-Wl,-rpath,{built.folder}")
    command = ["cc", *strict, *FLAGS, f"-I{SOURCES}", str(tmp_path / "app.c"), "-o", str(tmp_path / "app"), *link]
    subprocess.run(command, check=True)
    done = subprocess.run([str(tmp_path / "app")], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and len(done.stdout) > 10
