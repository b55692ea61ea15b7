"""The example of the public API runs as it stands in docs/."""

import subprocess
import sys
from pathlib import Path

from tests.e2e.conftest import ROOT, environment, one_core


def test_the_example_runs(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "utf8", str(ROOT / "docs" / "example.py")],
        capture_output=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        preexec_fn=one_core,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr.decode()
    first, *answers, count, story, refused = ran.stdout.decode().splitlines()
    assert first.startswith("edgeinfer demo (46M parameters), Q4_0 on ")
    assert all(answers)
    assert len(story) > len("Once upon a time")
    reused = int(count.split()[0])
    assert reused > 20
    assert refused.startswith("refused: ")
