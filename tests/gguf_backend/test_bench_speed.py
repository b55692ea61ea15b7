"""`edgeinfer bench speed`, short and on a tiny model. No speed is asserted."""

import argparse
import json
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.bench import speed
from edgeinfer.errors import UsageError
from tests.tiny_gguf import Tiny, write_tiny


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    speed.add_arguments(parser)
    return speed.run(parser.parse_args(arguments))


def test_a_short_run_reports_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny(tmp_path / "tiny.Q8_0.gguf", Tiny(tier="Q8_0", n_layers=2, exit_layer=1))
    arguments = ("--model", str(path), "--runs", "2", "--prompt-tokens", "20", "--tokens", "8", "--context", "512")
    assert run(*arguments, "--json", "--out", str(tmp_path / "speed.md")) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["same_tokens"] is True
    assert row["decode"]["low"] <= row["decode"]["median"] <= row["decode"]["high"]
    assert row["decode_ratio"]["median"] > 0
    assert row["memory_bytes"] > 10_000_000
    assert "ours / bare, decode" in (tmp_path / "speed.md").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="must fit the window"):
        run("--model", str(path), "--context", "512", "--prompt-tokens", "600")
