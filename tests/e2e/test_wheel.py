"""The wheel is complete: installed into an empty environment, it chats with the embedded model."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEELS = ROOT / ".venv" / "wheels"  # filled by `make` with every dependency, so no package index is needed


def run(*command: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **environment},
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    built = run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, ROOT)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("edgeinfer-*.whl")
    return path


def test_wheel_carries_data(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "edgeinfer/models.toml" in names
    assert "edgeinfer/models/demo.Q4_0.gguf" in names
    assert "edgeinfer/models/LICENSES.md" in names
    assert any(name.startswith("edgeinfer/metal_kernels/") and name.endswith(".metal") for name in names)
    assert not any(name.startswith(("tests/", "benchmarks/")) for name in names)


@pytest.mark.skipif(not WHEELS.is_dir(), reason="the wheelhouse is made by `make`")
def test_installed_wheel_chats(wheel: Path, tmp_path: Path) -> None:
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    installed = run(python, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", WHEELS, wheel)
    assert installed.returncode == 0, installed.stderr
    answer = run(
        home / "bin" / "edgeinfer",
        *("run", "--model", "demo", "--max-tokens", "8", "Hi! How are you today?"),
        cwd=tmp_path,
        HOME=str(tmp_path),
    )
    assert answer.returncode == 0, answer.stderr
    assert len(answer.stdout.split()) >= 3
    from_wheel = run(python, "-c", "import edgeinfer; print(edgeinfer.__file__)", cwd=tmp_path, HOME=str(tmp_path))
    assert str(home) in from_wheel.stdout
