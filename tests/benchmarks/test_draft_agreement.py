"""What counts as a right draft, by hand and on a tiny model."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from benchmarks.draft_agreement import add_arguments, count, guessed, run
from edgeinfer.backends.reference import load_gguf
from edgeinfer.decode.sampler import Sampler
from edgeinfer.errors import UsageError
from edgeinfer.types import Prompt, Sampling
from edgeinfer.window import WindowPolicy
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny


def test_a_depth_counts_only_after_right_guesses() -> None:
    counts = [[0, 0] for _ in range(3)]
    count([5, 6, 7], [5, 6, 8], counts)
    count([5, 6, 7], [4, 6, 7], counts)
    count([5, 6, 7], [5], counts)  # the answer ended
    assert counts == [[3, 2], [1, 1], [1, 0]]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_each_guess_is_compared_with_the_emitted_token(tmp_path: Path, temperature: float) -> None:
    """With shared noise, a draft equal to the model would always be right. This one often is."""
    path = write_tiny(tmp_path / "tiny.gguf", Tiny(exit_layer=3, late_gain=0.05))
    write_tiny_draft(draft_beside(path), path, exit_layer=3)
    model = load_gguf(path, draft=draft_beside(path))
    cache = model.new_cache(WindowPolicy(window=256, sink=0, block=64, limit=256))
    sampler = Sampler(Sampling(temperature=temperature, seed=3))
    pairs = list(guessed(cache, Prompt((5, 6, 7)), sampler, frozenset()))
    plain = [came[0] for _, came in pairs if came]
    assert [came[1] for _, came in pairs[:-2]] == plain[1 : len(pairs) - 1]  # answers shift by one
    counts = [[0, 0] for _ in range(3)]
    for chain, came in pairs:
        count(chain, came, counts)
    assert counts[0][1] / counts[0][0] > 0.5


def test_a_model_without_a_draft_is_refused(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    with pytest.raises(UsageError, match="no taught draft here"):
        run(parser.parse_args(["--model", str(path), "--backend", "reference"]))
