"""`verify --parity`: the bundle, llama.cpp and the reference on one file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgeinfer.cli.main import main
from edgeinfer.errors import ArtifactError
from edgeinfer.runner.parity import _compared, parity
from tests.executorch.bundles import write_bundle
from tests.executorch.exported import bundle_of, missing
from tests.tiny_gguf import Tiny, write_tiny


def test_the_figures_of_two_tokens_by_hand() -> None:
    oracle = np.log(np.array([[0.5, 0.5 - 1e-9, 1e-9], [0.25, 0.5, 0.25]]))
    other = np.log(np.array([[0.25, 0.75 - 1e-9, 1e-9], [0.25, 0.5, 0.25]]))
    found = _compared("gguf", oracle, other)
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    assert found.worst_nats == pytest.approx(expected, abs=1e-6)
    assert found.nats == pytest.approx(expected / 2, abs=1e-6)
    assert (found.same_top, found.n_tokens) == (0.5, 2)


def test_another_file_is_refused_by_its_digest(tmp_path: Path) -> None:
    model = write_tiny(tmp_path / "tiny.gguf", Tiny())
    with pytest.raises(ArtifactError, match="digests differ"):
        parity(write_bundle(tmp_path / "bundle"), model)


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_a_bundle_agrees_with_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("llama_cpp")
    model = write_tiny(tmp_path / "llama-F32.gguf", Tiny())
    assert main(["verify", str(bundle_of(model, "fp32")), "--parity", str(model), "--json"]) == 0
    of = {one["backend"]: one for one in json.loads(capsys.readouterr().out)["parity"]}
    assert of.keys() == {"gguf", "executorch"}
    assert of["executorch"]["nats"] < 1e-6 and of["executorch"]["same_top"] == 1
    assert of["gguf"]["nats"] < 0.05
