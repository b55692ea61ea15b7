"""Reading weights for an export, without the packages for exporting."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgeinfer.backends.executorch.export.folder_source import FolderSource
from edgeinfer.backends.executorch.export.gguf_source import GgufSource
from edgeinfer.backends.executorch.export.q4_0 import q4_0_of, unpacked_q4_0, with_positive_scales
from edgeinfer.backends.executorch.export.shape import llama3_divisors
from edgeinfer.backends.executorch.export.source import open_source
from edgeinfer.errors import ArtifactError
from tests.tiny_gguf import Tiny, write_tiny

Q4_0 = gguf.GGMLQuantizationType.Q4_0


def matrix(n_out: int, n_in: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((n_out, n_in)).astype(np.float32)


def test_q4_0_is_unpacked_as_the_gguf_package_dequantizes_it() -> None:
    blocks = gguf.quantize(matrix(6, 96), Q4_0)
    weight = unpacked_q4_0(blocks)
    assert (weight.scales < 0).any() and (weight.scales > 0).any()
    assert weight.values.min() == -8
    values = weight.values.reshape(6, 3, 32) * weight.scales[:, :, None]
    np.testing.assert_array_equal(values.reshape(6, 96), gguf.dequantize(blocks, Q4_0))


def test_positive_scales_change_only_values_out_of_range() -> None:
    weight = q4_0_of(matrix(6, 96))
    positive = with_positive_scales(weight)
    before = weight.values.reshape(6, 3, 32) * weight.scales[:, :, None]
    after = positive.values.reshape(6, 3, 32) * positive.scales[:, :, None]
    assert (positive.scales > 0).all() and positive.values.min() == -8 and positive.values.max() == 7
    changed = before != after
    has_no_place = (weight.values.reshape(6, 3, 32) == -8) & (weight.scales < 0)[:, :, None]
    assert changed.any()
    np.testing.assert_array_equal(changed, has_no_place)
    np.testing.assert_allclose(after[changed], before[changed] * 7 / 8, rtol=1e-6)


def test_a_block_of_zeros_has_a_scale_that_xnnpack_takes() -> None:
    positive = with_positive_scales(q4_0_of(np.zeros((1, 32), np.float32)))
    assert (positive.scales > 0).all() and np.abs(positive.values * positive.scales).max() < 1e-20


def test_rows_of_a_llama_head_are_reordered_into_two_halves(tmp_path: Path) -> None:
    """GGUF stores pairs (0, n/2), (1, n/2 + 1), ...: rows 0, 2, 4, ... of a head are its first half."""
    path = write_tiny(tmp_path / "llama.gguf", Tiny(head_dim=32, n_heads=4, n_kv_heads=2))
    source = open_source(path)
    assert isinstance(source, GgufSource)
    stored = gguf.GGUFReader(path)
    raw = {tensor.name: tensor.data for tensor in stored.tensors}
    order = [*range(0, 32, 2), *range(1, 32, 2)]
    expected = np.concatenate([raw["blk.0.attn_k.weight"][head * 32 :][order] for head in range(2)])
    np.testing.assert_array_equal(source.floats("blk.0.attn_k"), expected)
    np.testing.assert_array_equal(source.floats("blk.0.attn_v"), raw["blk.0.attn_v.weight"])


def test_q4_0_rows_move_with_their_scales(tmp_path: Path) -> None:
    source = open_source(write_tiny(tmp_path / "q4.gguf", Tiny(tier="Q4_0", seed=2)))
    weight = source.q4_0("blk.0.attn_q")
    assert weight is not None
    values = weight.values.reshape(128, 4, 32) * weight.scales[:, :, None]
    np.testing.assert_array_equal(values.reshape(128, 128), source.floats("blk.0.attn_q"))


def test_the_exit_layer_comes_from_the_file(tmp_path: Path) -> None:
    assert open_source(write_tiny(tmp_path / "a.gguf", Tiny(exit_layer=3))).shape.exit_layer == 3
    assert open_source(write_tiny(tmp_path / "b.gguf", Tiny(exit_layer=None))).shape.exit_layer is None
    with pytest.raises(ArtifactError, match=r"edgeinfer\.exit_layer is 4; the model has 4 layers"):
        open_source(write_tiny(tmp_path / "c.gguf", Tiny(exit_layer=4)))


def test_an_architecture_that_is_not_exported_is_named(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "gemma.gguf", Tiny(architecture="gemma3", own_window=64))
    with pytest.raises(ArtifactError, match="gemma3 models are not exported"):
        open_source(path)


def test_llama3_scaling_of_three_frequencies() -> None:
    """Wavelengths of 100, 3000 and 20000 positions; factor 8, kept below 8192 / 4, divided above 8192 / 1."""
    frequencies = 2 * np.pi / np.array([100.0, 3000.0, 20000.0])
    kept = (8192 / 3000 - 1) / (4 - 1)
    expected = [1.0, 1 / (kept + (1 - kept) / 8), 8.0]
    np.testing.assert_allclose(llama3_divisors(frequencies, 8.0, 1.0, 4.0, 8192.0), expected)


CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 8,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


def folder_of(path: Path, **changes: object) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({**CONFIG, **changes}), encoding="utf-8")
    values = matrix(32, 64)
    data = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
    name = "model.layers.0.self_attn.k_proj.weight"
    header = json.dumps({name: {"dtype": "BF16", "shape": [32, 64], "data_offsets": [0, len(data)]}}).encode()
    header += b" " * (-len(header) % 8)
    (path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def test_a_folder_is_read_in_float32(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path / "m"))
    assert isinstance(source, FolderSource)
    expected = (matrix(32, 64).view(np.uint32) >> 16 << 16).view(np.float32)
    np.testing.assert_array_equal(source.floats("blk.0.attn_k"), expected)
    assert source.has("blk.0.attn_k") and not source.has("blk.0.attn_k.bias") and source.shape.tied
    with pytest.raises(ArtifactError, match=r"model\.layers\.0\.self_attn\.q_proj\.weight is missing"):
        source.floats("blk.0.attn_q")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "gemma3"}, "gemma3 models are not exported"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "RoPE scaling 'yarn'"),
        ({"quantization_config": {"bits": 4}}, "quantized already"),
        ({"hidden_size": -1}, "hidden_size"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
    ],
    ids=["architecture", "yarn", "quantized", "negative", "text"],
)
def test_an_unsupported_folder_is_refused(tmp_path: Path, changes: dict[str, object], what: str) -> None:
    with pytest.raises(ArtifactError, match=what):
        open_source(folder_of(tmp_path / "m", **changes))


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"model_type": "mistral", "sliding_window": 128}, 128),
        ({"model_type": "mistral", "sliding_window": None}, 256),
        ({"model_type": "qwen2", "sliding_window": 128, "use_sliding_window": False}, 256),
    ],
    ids=["mistral", "mistral-without", "qwen2-unused"],
)
def test_a_sliding_window_of_the_model_limits_the_positions(
    tmp_path: Path, changes: dict[str, object], limit: int
) -> None:
    assert open_source(folder_of(tmp_path / "m", **changes)).shape.limit == limit
