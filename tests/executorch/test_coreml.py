"""Programs for Core ML: right in torch, lowered, and refused where they cannot run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.cli.main import main
from edgeinfer.errors import ArtifactError, UsageError
from tests.executorch.exported import missing
from tests.tiny_gguf import Tiny, write_tiny

N_SLOTS = 24
TOKENS = [(11 * index) % 250 + 3 for index in range(20)]


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.filterwarnings("ignore")  # torch and ExecuTorch warn when they are imported
def test_steps_over_keys_that_the_host_keeps_give_the_reference_s_logits(tmp_path: Path) -> None:
    """8 tokens, then 8 of which 5 are kept, then single tokens. The host fills slots from the last to the first."""
    import torch

    from edgeinfer.backends.executorch.export.coreml import CoreMlForward
    from edgeinfer.backends.executorch.export.decoder import Decoder
    from edgeinfer.backends.executorch.export.source import open_source
    from edgeinfer.backends.reference import load_gguf
    from edgeinfer.prefill import prefill
    from edgeinfer.window import WindowPolicy

    path = write_tiny(tmp_path / "tiny.gguf", Tiny())
    cache = load_gguf(path).new_cache(WindowPolicy(window=64, sink=0, block=16, limit=64))
    expected = [prefill(cache, [token]).numpy().copy() for token in TOKENS]
    source = open_source(path)
    shape = source.shape
    with torch.no_grad():
        decoder = Decoder(source, "fp16").eval()
        step = CoreMlForward(decoder)
        keys, values = (torch.full((shape.n_layers, N_SLOTS, shape.n_kv_heads, shape.head_dim), 9.0) for _ in range(2))
        found: list[np.ndarray] = []
        for n_tokens, n_kept in ((8, 8), (8, 5), *[(1, 1)] * 7):
            at = len(found)
            angles = torch.arange(at, at + n_tokens, dtype=torch.float64)[:, None] * decoder.frequencies
            rotation = torch.stack([angles.cos(), angles.sin()]).float()
            mask = torch.full((n_tokens, N_SLOTS + n_tokens), -1e9)
            for row in range(n_tokens):
                mask[row, N_SLOTS - at : N_SLOTS] = 0
                mask[row, N_SLOTS : N_SLOTS + row + 1] = 0
            tokens = torch.tensor([TOKENS[at : at + n_tokens]], dtype=torch.int32)
            logits, new_keys, new_values = step(tokens, rotation, mask, keys, values)
            for index in range(n_kept):
                keys[:, N_SLOTS - 1 - at - index] = new_keys[:, index]
                values[:, N_SLOTS - 1 - at - index] = new_values[:, index]
            found += list(logits[:n_kept].numpy())
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-3)


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_bundle_says_that_it_is_for_core_ml_and_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import subprocess
    import sys

    model, out = write_tiny(tmp_path / "tiny.gguf", Tiny()), tmp_path / "bundle"
    command = [sys.executable, "-m", "edgeinfer", "export", str(model), "--target", "coreml", "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # torch warns, and warnings fail tests
    assert done.returncode == 0, done.stderr
    assert "lowered for Core ML, but not run" in done.stderr
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["target"], manifest["tier"], manifest["exact_rows"]) == ("coreml", "fp16", 0)
    assert set(manifest["methods"]) == {"forward_1", "forward_8", "forward_128"}
    assert main(["run", "--model", str(out), "Hi"]) == ArtifactError.exit_code
    assert "`target` is 'coreml'; this version runs xnnpack" in capsys.readouterr().err


def test_core_ml_has_one_tier(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "demo", "--target", "coreml", "--tier", "8da4w", "--out", str(tmp_path / "out")]
    assert main(command) == UsageError.exit_code
    assert "--target coreml has no tier 8da4w" in capsys.readouterr().err


def test_core_ml_has_one_type_of_k_and_v(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "demo", "--target", "coreml", "--kv-type", "f16", "--out", str(tmp_path / "out")]
    assert main(command) == UsageError.exit_code
    assert "--target coreml does not take --kv-type f16: K and V are float32" in capsys.readouterr().err
