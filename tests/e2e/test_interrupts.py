"""Ctrl-C, a reader that closes the pipe, and drafts from a second model."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.conftest import Cli, environment, one_core
from tests.tiny_gguf import Tiny, write_tiny


def interruptible() -> None:
    """A shell makes background jobs ignore Ctrl-C, and child processes inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    one_core()


def started(home: Path, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-X", "utf8", "-m", "edgeinfer", *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(home),
        preexec_fn=interruptible,
    )


ENDLESS = ("--max-tokens", "1000000", "the rain")


def test_ctrl_c_ends_run_with_130(tmp_path: Path, on_tiny: list[str]) -> None:
    with started(tmp_path, "run", *on_tiny, *ENDLESS) as running:
        assert running.stdout is not None
        running.stdout.read(20)
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert out.endswith(b"\n")
    assert b"(stopped)" in err
    assert b"Traceback" not in err


def test_ctrl_c_before_the_answer(tmp_path: Path) -> None:
    """While the command waits for a prompt."""
    with subprocess.Popen(
        [sys.executable, "-m", "edgeinfer", "run", "--model", "demo", "-"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(tmp_path),
        preexec_fn=interruptible,
    ) as running:
        with pytest.raises(subprocess.TimeoutExpired):
            running.wait(timeout=4)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    assert b"Traceback" not in err


def test_a_reader_that_leaves_causes_no_error(tmp_path: Path, on_tiny: list[str]) -> None:
    with started(tmp_path, "run", *on_tiny, *ENDLESS) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.read(20)
        running.stdout.close()
        err = running.stderr.read()
        running.wait(timeout=60)
    assert running.returncode == 141
    assert b"error" not in err
    assert b"Traceback" not in err


def test_a_draft_model_changes_no_token(cli: Cli, on_tiny: list[str], tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", Tiny(n_layers=2, exit_layer=None))
    plain = cli("run", *on_tiny, "the rain")
    drafted = cli("run", *on_tiny, "--speculation", "draft", "--draft-model", str(other), "--stats", "the rain")
    assert drafted.code == 0, drafted.err
    assert drafted.out == plain.out


def test_a_draft_model_with_another_vocabulary_is_refused(cli: Cli, on_tiny: list[str], tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other.gguf", Tiny(n_merges=10))
    ran = cli("run", *on_tiny, "--speculation", "draft", "--draft-model", str(other), "the rain")
    assert ran.code == 2
    assert ran.err.count("error: ") == 1
