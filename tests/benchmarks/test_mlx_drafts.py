"""The comparison of taught drafts on MLX with the reference, on a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

from benchmarks.mlx_drafts import answer, equal, on_mlx, on_reference
from edgeinfer.types import Prompt
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny

PROMPTS = [Prompt(tuple(range(5, 5 + n))) for n in (7, 30, 61)]


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("kind", ["feature", "exit"])
def test_tokens_and_acceptance_are_those_of_the_reference(tmp_path: Path, kind: str, temperature: float) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny(late_gain=0.2))
    draft = draft_beside(path)
    if kind == "feature":
        write_tiny_draft(draft, path, (1, 4))
    else:
        write_tiny_draft(draft, path, exit_layer=2)
    reference, mlx = on_reference(path, draft), on_mlx(path, draft)
    assert reference.drafts_with == mlx.drafts_with == kind
    oracle, found = (answer(model, PROMPTS, temperature, 40) for model in (reference, mlx))
    plain = answer(mlx, PROMPTS, temperature, 40, depth=0)
    assert equal(found, plain) == equal(found, oracle) == len(PROMPTS)
    assert plain.drafted == 0 < oracle.accepted < oracle.drafted
    assert (found.drafted, found.accepted) == (oracle.drafted, oracle.accepted)
