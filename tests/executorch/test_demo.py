"""The embedded model, exported: it agrees with its file, and `verify` proves the bundle."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.manifest import sealed
from edgeinfer.window import WindowPolicy
from tests.executorch.exported import ROOT, bundle_of, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

DEMO = ROOT / "edgeinfer/models/demo.Q4_0.gguf"
POLICY = WindowPolicy(window=32, sink=8, block=8, limit=96)
TEXT = "Once upon a time there was a dog. He lived in a small house with a garden and a tree. Every day the dog ran"


@pytest.fixture(scope="module")
def demo() -> Path:
    return bundle_of(DEMO, "8da4w")


def edgeinfer(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edgeinfer", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def log_softmax(row: np.ndarray) -> np.ndarray:
    shifted = row.astype(np.float64) - row.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def test_it_agrees_with_the_reference_past_the_wrap(demo: Path) -> None:
    """8-bit activations and positive scales cost 0.04 nats per token; wrong weights or windows, more than 1."""
    from edgeinfer.backends.executorch.bundle import load_bundle
    from edgeinfer.backends.reference import load_gguf
    from edgeinfer.prefill import prefill

    told = []
    for model in (load_gguf(DEMO), load_bundle(demo)):
        tokens = model.tokenizer.encode(TEXT * 3, special=False)[: POLICY.limit]
        cache = model.new_cache(POLICY)
        told.append([log_softmax(prefill(cache, [token]).numpy()) for token in tokens])
        model.close()
    assert len(POLICY.evicted(len(told[0]))) >= 2 * POLICY.block
    divergence = [float((np.exp(a) * (a - b)).sum()) for a, b in zip(*told, strict=True)]
    assert np.mean(divergence) < 0.1
    assert np.mean([a.argmax() == b.argmax() for a, b in zip(*told, strict=True)]) > 0.8


def test_both_tokenizers_agree(demo: Path) -> None:
    from edgeinfer.backends.executorch.bundle import BundleTokenizer
    from edgeinfer.formats import GgufTokenizer, read_header
    from edgeinfer.formats.bundle import check_bundle

    ours = BundleTokenizer(demo, check_bundle(demo).manifest)
    theirs = GgufTokenizer(read_header(DEMO))
    for text in (TEXT, "naïve 東京 🙂 <|im_end|>\n\n  x", "<|im_start|>user\nHi<|im_end|>"):
        for special in (False, True):
            assert ours.encode(text, special=special) == theirs.encode(text, special=special)
    assert ours.stop_tokens == theirs.stop_tokens
    assert ours.chat_template == theirs.chat_template
    assert all(ours.piece(token) == theirs.piece(token) for token in range(theirs.n_vocab))


def test_chat_drafts_with_its_trained_exit(demo: Path) -> None:
    done = edgeinfer("run", "--model", str(demo), "--temp", "0", "--max-tokens", "40", "--json", "Tell me a story.")
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    plain = edgeinfer(
        *("run", "--model", str(demo), "--temp", "0", "--max-tokens", "40", "--json"),
        *("--speculation", "off", "Tell me a story."),
    )
    assert said["text"] == json.loads(plain.stdout)["text"] != ""


def test_verify_accepts_the_bundle_and_finds_a_changed_answer(demo: Path, tmp_path: Path) -> None:
    done = edgeinfer("verify", str(demo), "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["golden_tokens"] == 3 * 48 * 2 and report["exact_rows"] == 16
    wrong = tmp_path / "wrong"
    shutil.copytree(demo, wrong)
    manifest = json.loads((wrong / "manifest.json").read_text())
    manifest["golden"][1]["answer"][20] = (manifest["golden"][1]["answer"][20] + 1) % 16384
    (wrong / "manifest.json").write_text(sealed(json.dumps(manifest)))
    done = edgeinfer("verify", str(wrong))
    assert done.returncode == ArtifactError.exit_code
    assert "token 20 was " in done.stderr and done.stdout == ""
