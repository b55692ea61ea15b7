"""`edgeinfer rm` removes what was named, and nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edgeinfer.cli.main import parser_of
from edgeinfer.cli.rm_command import run
from edgeinfer.hub import cache


def test_a_tier_must_be_a_whole_word_of_the_file_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = [SimpleNamespace(repo="org/repo", file=f"m-{tier}.gguf", path=tmp_path / tier) for tier in ("BF16", "F16")]
    removed: list[str] = []
    monkeypatch.setattr(cache, "installed", lambda: files)
    monkeypatch.setattr(cache, "remove", lambda _, file: removed.append(file) or 0)
    assert run(parser_of("rm").parse_args(["org/repo:F16"])) == 0
    assert removed == ["m-F16.gguf"]
    removed.clear()
    assert run(parser_of("rm").parse_args(["org/repo"])) == 0
    assert removed == ["m-BF16.gguf", "m-F16.gguf"]
