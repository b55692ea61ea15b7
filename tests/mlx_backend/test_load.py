"""GGUF files and mlx-community folders, loaded directly, against the layout of llama.cpp and stock MLX."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402
from mlx.utils import tree_flatten  # noqa: E402

from edgeinfer.backends.mlx.kernels import Kernels, Step, held_positions  # noqa: E402
from edgeinfer.backends.mlx.ring import RingLayer, Span, storage_of  # noqa: E402
from edgeinfer.backends.mlx.weights import load_folder, load_gguf  # noqa: E402
from edgeinfer.errors import ArtifactError  # noqa: E402
from edgeinfer.formats.gguf_header import read_header  # noqa: E402
from edgeinfer.prefill import prefill  # noqa: E402
from edgeinfer.window import WindowPolicy  # noqa: E402
from tests.mlx_backend.families import FAMILIES, N_VOCAB, build, open_model  # noqa: E402
from tests.tiny_gguf import Tiny, write_tiny  # noqa: E402

POLICY = WindowPolicy(window=64, sink=4, block=16, limit=2048)
TOKENS = np.random.default_rng(1).integers(3, 250, 24).tolist()


def reference_rows(path: Path) -> np.ndarray:
    from edgeinfer.backends.reference import load_gguf as load_reference

    model = load_reference(path)
    cache = model.new_cache(POLICY)
    rows = [np.array(prefill(cache, TOKENS[:1]).numpy())]
    for token in TOKENS[1:]:
        step = cache.begin(1)
        rows.append(np.array(step.verify([token])[0].numpy()))
        step.commit(1)
    return np.stack(rows)


@pytest.mark.parametrize("tier", ["F32", "F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_gguf_equals_the_reference(tmp_path: Path, architecture: str, tier: str) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny(architecture=architecture, tier=tier))  # type: ignore[arg-type]
    model, _ = load_gguf(path, read_header(path), mx.float32)
    got = np.array(model(mx.array([TOKENS]))[0])
    want = reference_rows(path)
    assert np.abs(got - want).max() <= 2e-3 * np.abs(want).max()


def test_a_tier_that_mlx_does_not_read_is_refused(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny(architecture="gemma3", own_window=32))
    with pytest.raises(ArtifactError, match="gemma3"):
        load_gguf(path, read_header(path), mx.float32)


def write_folder(folder: Path, bits: int) -> nn.Module:
    """A qwen3 of the stock shape, saved as mlx_lm.convert saves one."""
    settings = FAMILIES["qwen3"]
    model = build(settings)
    config = dict(settings)
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
        config["quantization"] = {"group_size": 32, "bits": bits}
    mx.save_safetensors(str(folder / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (folder / "config.json").write_text(json.dumps(config))
    return model


@pytest.mark.parametrize("bits", [0, 4, 6, 8])
def test_a_loaded_folder_equals_the_saved_model(tmp_path: Path, bits: int) -> None:
    saved = write_folder(tmp_path, bits)
    model, _ = load_folder(tmp_path)
    tokens = mx.array([[token % N_VOCAB for token in TOKENS]])
    assert mx.array_equal(model(tokens), saved(tokens)).item()


@pytest.mark.parametrize("key", ["model_file", "auto_map"])
def test_a_folder_with_code_of_its_own_is_refused(tmp_path: Path, key: str) -> None:
    write_folder(tmp_path, 0)
    config = json.loads((tmp_path / "config.json").read_text()) | {key: "evil.py"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(ArtifactError, match=key):
        load_folder(tmp_path)


def test_held_positions_by_hand() -> None:
    # window 4 of blocks of 1, 2 sinks: slots are s0 s1 | p%4 = 0 1 2 3
    policy = WindowPolicy(window=4, sink=2, block=1, limit=100)
    assert held_positions(policy, 0).tolist() == [-1, -1, -1, -1, -1, -1]
    assert held_positions(policy, 3).tolist() == [0, 1, -1, -1, 2, -1]
    assert held_positions(policy, 7).tolist() == [0, 1, 4, 5, 6, 3]
    assert [Step(end - 1, 1, policy, policy).used for end in (1, 2, 3, 4, 5)] == [1, 2, 5, 6, 6]


def test_a_sliding_layer_keeps_less_and_gives_the_same_rows() -> None:
    model = open_model(build(FAMILIES["llama-sliding"]))
    policy = WindowPolicy(window=2048, sink=64, block=256, limit=8192)
    tokens = np.random.default_rng(2).integers(0, N_VOCAB, 3000).tolist()
    small, full = model.new_cache(policy), model.new_cache(policy)
    for layer in full.layers:
        layer.storage = policy
        layer.clear()
    assert {layer.storage.slots for layer in small.layers} == {1024, policy.slots}
    want, got = prefill(full, tokens[:-20]).numpy(), prefill(small, tokens[:-20]).numpy()
    assert np.allclose(got, want, rtol=0, atol=2e-4 * np.abs(want).max())
    for at in range(len(tokens) - 20, len(tokens), 4):
        for ring in (full, small):
            step = ring.begin(4)
            rows = [row.numpy() for row in step.verify(tokens[at : at + 4])]
            step.commit(2)
            want, got = got, np.stack(rows)
        assert np.allclose(got[:2], want[:2], rtol=0, atol=2e-4 * np.abs(want).max())
    assert len(policy.evicted(small.length)) > 2 * policy.block
    assert small.n_bytes < full.n_bytes


@pytest.mark.parametrize(("kv_bits", "error"), [(8, 0.02), (4, 0.3)])
def test_quantized_rows_come_back_within_their_step(kv_bits: int, error: float) -> None:
    policy = WindowPolicy(window=32, sink=4, block=8, limit=1024)
    span = Span(policy)
    span.place(0, 20)
    ring = RingLayer(span, Kernels(), kv_bits=kv_bits)  # type: ignore[arg-type]
    rows = mx.random.normal((1, 2, 20, 64))
    keys, values = ring.update_and_fetch(rows, -rows)
    slots = [policy.slot(position) for position in range(20)]
    assert np.abs(np.array(keys)[:, :, slots] - np.array(rows)).max() < error
    assert np.abs(np.array(values)[:, :, slots] + np.array(rows)).max() < error
    assert ring.n_bytes == 2 * 2 * policy.slots * (64 * kv_bits // 8 + 4)


def test_storage_covers_the_window_unless_the_sliding_window_is_smaller() -> None:
    policy = WindowPolicy(window=1024, sink=64, block=128, limit=8192)
    assert storage_of(policy, 0) is policy
    assert storage_of(policy, 4096) is policy
    assert storage_of(policy, 300).window == 1024
