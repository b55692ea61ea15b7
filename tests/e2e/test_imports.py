"""Commands import only what they need, so that `--help` and `plan` answer at once."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import environment

HEAVY = (
    *("numpy", "jinja2", "prompt_toolkit", "rich", "pydantic", "huggingface_hub", "tokenizers", "transformers"),
    *("gguf", "llama_cpp", "mlx", "mlx_lm", "matplotlib", "asyncio"),
)
ENGINES = ("llama_cpp", "mlx", "mlx_lm", "executorch", "torch")


def imported(home: Path, *argv: str) -> set[str]:
    """The top-level modules after a command."""
    program = (
        "import contextlib, io, json, sys\n"
        "from edgeinfer.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()):\n"
        f"    code = main({list(argv)!r})\n"
        "assert code == 0, code\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(home), check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize(
    "argv", [["--help"], ["plan"], ["plan", "--device", "iphone-15-pro", "--json"], ["plan", "--devices"], ["list"]]
)
def test_a_command_imports_no_heavy_library(tmp_path: Path, argv: list[str]) -> None:
    keep_a_bandwidth(tmp_path)
    assert imported(tmp_path, *argv) & set(HEAVY) == set()


def keep_a_bandwidth(home: Path) -> None:
    """A settled memory bandwidth, as after a few runs. Until then a command measures it, with NumPy."""
    program = (
        "from edgeinfer.cli.main import main\n"
        "from edgeinfer.device import bandwidth\n"
        "bandwidth.measure = lambda *_: bandwidth.Read(20 * 10**9, quiet=True)\n"
        "main(['plan'])\n"
    )
    subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(home), check=True)


def test_doctor_starts_no_engine(tmp_path: Path) -> None:
    assert imported(tmp_path, "doctor") & set(ENGINES) == set()


def test_the_check_finds_a_heavy_import(tmp_path: Path) -> None:
    assert "huggingface_hub" in imported_after(tmp_path, "import huggingface_hub")


def imported_after(home: Path, statement: str) -> set[str]:
    program = f"import json, sys\n{statement}\nprint(json.dumps([name.partition('.')[0] for name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, env=environment(home), check=True)
    return set(json.loads(done.stdout))
