"""Bundles that keep K and V in 16 or 8 bits."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from edgeinfer.cli.main import main
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.bundle import check_bundle
from edgeinfer.types import KvType
from tests.executorch.bundles import changed, fields_of, write_fields
from tests.executorch.exported import bundle_of, missing, with_kv_type
from tests.tiny_gguf import Tiny, write_tiny

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """K and V in float32."""
    return bundle_of(write_tiny(tmp_path_factory.mktemp("tiny") / "llama-F32.gguf", Tiny()), "fp32")


@pytest.mark.parametrize("kv_type", ["f16", "q8_0"])
def test_golden_answers_are_recorded_and_compared_with_the_type(
    exact: Path, kv_type: KvType, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = with_kv_type(exact, kv_type)
    assert main(["verify", str(bundle), "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert (verified["kv_type"], verified["exact_rows"]) == (kv_type, 16)
    assert verified["golden_tokens"] > 0
    logits = [golden.logits for golden in check_bundle(bundle).manifest.golden]
    assert logits != [golden.logits for golden in check_bundle(exact).manifest.golden]


@pytest.mark.parametrize(("stated", "n_bytes"), [("f32", "2,048"), ("f16", "1,024"), ("q8_0", "576")])
def test_other_bytes_than_those_of_the_engine_are_refused(
    exact: Path, tmp_path: Path, stated: KvType, n_bytes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """4 layers, 2 heads, K and V: 32 values of 4 or 2 bytes, or of 1 byte and a scale of 4 bytes."""
    bundle = tmp_path / "b"
    shutil.copytree(exact, bundle)
    fields = changed(fields_of(bundle), ("memory", "kv_bytes_per_position"), 1000)
    write_fields(bundle, fields | {"kv_type": stated})
    assert main(["verify", str(bundle)]) == ArtifactError.exit_code
    assert (
        f"K and V as {stated} take {n_bytes} bytes for each position; the manifest says 1,000"
        in capsys.readouterr().err
    )
