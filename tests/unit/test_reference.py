"""The reference backend: K/V types, RoPE scaling, refusals. All else is in the conformance suite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeinfer.backends.reference import BACKEND, load_gguf
from edgeinfer.backends.reference import model as reference_model
from edgeinfer.backends.reference.storage import Ring
from edgeinfer.backends.reference.weights import WeightsShape
from edgeinfer.backends.reserve import PlannedCaches
from edgeinfer.errors import ArtifactError, EngineError
from edgeinfer.prefill import prefill
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy
from tests.conformance.oracle import oracle_logits, visible
from tests.tiny_gguf import Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=8, block=16, limit=128)
TOKENS = [int(token) for token in np.random.default_rng(1).integers(3, 259, 90)]
SHAPE = WeightsShape(1, 64, 2, 2, 32, 64, 10, 1e-5, True)


def rows(path: Path, kv_type: KvType = "f32") -> Any:
    model = load_gguf(path, kv_type=kv_type)
    step = model.new_cache(WindowPolicy(128, 0, 32, 128)).begin(90)
    found = np.array([row.numpy() for row in step.verify(TOKENS)])
    model.close()
    return found


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny.gguf")


@pytest.mark.parametrize(("tier", "tied"), [("F16", False), ("Q8_0", True), ("Q4_0", False)])
def test_tiers_and_tied_heads_are_read(tmp_path: Path, tier: Any, tied: bool) -> None:
    """The oracle dequantizes with the same library, so this tests the layout of tensors: equal up to rounding."""
    path = write_tiny(tmp_path / "tier.gguf", Tiny(tier=tier, tied=tied))
    assert (
        np.abs(rows(path) - oracle_logits(path, TOKENS, visible(len(TOKENS), 128, 0, 32))).max()
        < 1e-3 * rows(path).std()
    )


@pytest.mark.parametrize(
    ("kv_type", "least", "most"), [("f16", 1e-4, 0.1), ("q8_0/f16", 0.02, 0.8), ("q8_0", 0.02, 0.8), ("q4_0", 0.5, 9.0)]
)
def test_each_kv_type_rounds_within_its_step(tiny: Path, kv_type: KvType, least: float, most: float) -> None:
    assert least < np.abs(rows(tiny, kv_type) - rows(tiny)).max() < most


def test_a_ring_returns_rows_within_the_step_of_its_type() -> None:
    written = np.random.default_rng(0).standard_normal((2, 3, 32), np.float32)
    largest = np.abs(written).max(axis=-1, keepdims=True)
    for kv_type, step in (("f32", 0.0), ("f16", 2**-11), ("q8_0", 0.51 / 127 + 2**-11), ("q4_0", 1.01 / 8)):
        ring = Ring(SHAPE, 5, kv_type)  # type: ignore[arg-type]
        ring.write([4, 0, 2], written)
        assert (np.abs(ring.read(5)[:, [4, 0, 2]] - written) <= step * largest + 1e-3 * step).all()
        assert not ring.read(5)[:, [1, 3]].any()


def test_a_quantized_ring_needs_rows_of_whole_blocks() -> None:
    with pytest.raises(EngineError, match="multiple of 32; it is 16"):
        Ring(WeightsShape(1, 32, 2, 2, 16, 64, 10, 1e-5, True), 5, "q8_0")


def test_rows_are_equal_where_blas_rounds_by_row_index(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With such a BLAS every row is computed alone: slower but exact."""
    monkeypatch.setattr(reference_model, "_place_is_free", lambda weights: False)
    model = load_gguf(tiny)
    cache, alone = model.new_cache(POLICY), model.new_cache(POLICY)
    together = [row.numpy() for row in cache.begin(20).verify(TOKENS[:20])]
    assert all(np.array_equal(prefill(alone, [t]).numpy(), row) for t, row in zip(TOKENS[:20], together, strict=True))


def test_the_probe_finds_a_blas_that_rounds_by_row_index() -> None:
    class Uneven(np.ndarray):
        """Products whose last row is one rounding step higher, as if another kernel computed the edge."""

        def __rmatmul__(self, other: Any) -> Any:
            product = np.asarray(other) @ np.asarray(self)
            product[-1] = np.nextafter(product[-1], np.float32(np.inf))
            return product

    even = np.random.default_rng(0).standard_normal((16, 32)).astype(np.float32)
    assert reference_model._is_place_free(even)
    assert not reference_model._is_place_free(even.view(Uneven))


def test_planned_conversations_get_memory_at_the_start_and_the_next_one_reuses_it(tiny: Path) -> None:
    model = load_gguf(tiny, planned=PlannedCaches(2, POLICY))
    assert model.n_caches == 2
    first, second = model.new_cache(POLICY), model.new_cache(POLICY)
    rings = first.layers
    expected = prefill(second, TOKENS[:20]).numpy()
    prefill(first, TOKENS[20:80])
    first.close()
    first.close()
    again, extra = model.new_cache(POLICY), model.new_cache(POLICY)
    assert again.layers is rings and extra.layers is not rings
    assert np.array_equal(prefill(again, TOKENS[:20]).numpy(), expected)  # nothing is left of the conversation before
    model.close()


def test_the_plan_alone_decides_the_exit_layer(tiny: Path) -> None:
    assert load_gguf(tiny).exit_layer is None  # although the file names layer 2
    assert load_gguf(tiny, exit_layer=1).exit_layer == 1


@pytest.mark.parametrize("exit_layer", [-1, 0, 4])
def test_an_exit_layer_that_the_model_does_not_have_is_refused(tiny: Path, exit_layer: int) -> None:
    with pytest.raises(ArtifactError, match=f"has 4 layers; it cannot exit after layer {exit_layer}"):
        load_gguf(tiny, exit_layer=exit_layer)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "gemma3", "own_window": 32, "n_layers": 6}, "computes llama and qwen3, not gemma3"),
    ],
)
def test_unsupported_models_are_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = write_tiny(tmp_path / "other.gguf", Tiny(**changes))
    with pytest.raises(ArtifactError, match=words):
        load_gguf(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("llama.rope.scaling.type", "yarn", "no yarn RoPE"),
        ("llama.rope.dimension_count", 16, "must all have 32 dimensions"),
        ("llama.expert_count", 4, "no experts"),
    ],
)
def test_unsupported_settings_are_refused(tmp_path: Path, tiny: Path, key: str, value: Any, words: str) -> None:
    from benchmarks.models.ggufs import rewrite

    rewrite(tiny, tmp_path / "set.gguf", {key: value})
    with pytest.raises(ArtifactError, match=words):
        load_gguf(tmp_path / "set.gguf")


def test_linear_rope_scaling_stretches_positions(tmp_path: Path, tiny: Path) -> None:
    from benchmarks.models.ggufs import rewrite

    rewrite(tiny, tmp_path / "stretched.gguf", {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 2.0})
    plain, stretched = load_gguf(tiny), load_gguf(tmp_path / "stretched.gguf")
    assert np.allclose(plain.weights.frequencies, 2 * stretched.weights.frequencies)


def test_an_unused_tensor_is_refused(tmp_path: Path, tiny: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(tiny)
    writer = gguf.GGUFWriter(tmp_path / "more.gguf", "llama")
    from benchmarks.models.ggufs import copy_metadata

    copy_metadata(reader, writer, {})
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.add_tensor("blk.0.attn_q.bias", np.zeros(128, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ArtifactError, match=r"does not compute with blk\.0\.attn_q\.bias"):
        load_gguf(tmp_path / "more.gguf")


def test_llama3_divisors_are_applied(tmp_path: Path, tiny: Path) -> None:
    import gguf

    from benchmarks.models.ggufs import copy_metadata

    reader = gguf.GGUFReader(tiny)
    writer = gguf.GGUFWriter(tmp_path / "llama3.gguf", "llama")
    copy_metadata(reader, writer, {})
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    divisors = np.linspace(1, 8, 16).astype(np.float32)
    writer.add_tensor("rope_freqs.weight", divisors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    scaled, plain = load_gguf(tmp_path / "llama3.gguf"), load_gguf(tiny)
    assert np.allclose(scaled.weights.frequencies * divisors, plain.weights.frequencies)


def test_probe_states_capabilities() -> None:
    found = BACKEND.probe()
    assert not found.unavailable and found.versions["numpy"] == np.__version__


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        load_gguf(tmp_path)


def test_a_closed_model_raises_an_error(tiny: Path) -> None:
    model = load_gguf(tiny)
    cache = model.new_cache(POLICY)
    model.close()
    with pytest.raises(EngineError, match="closed"):
        prefill(cache, [5])
