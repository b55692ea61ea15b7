"""Joined projections give the results of separate ones."""

from __future__ import annotations

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402

from edgeinfer.backends.mlx.adapter import find_inner  # noqa: E402
from edgeinfer.backends.mlx.joined import join_projections  # noqa: E402
from tests.mlx_backend.families import FAMILIES, N_LAYERS, build  # noqa: E402

TOKENS = mx.array([[3, 1, 4, 1, 5, 9, 2, 6]])


@pytest.mark.parametrize("bits", [0, 4, 8])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3_text", "gemma4-own-kv", "mistral3"])
def test_joined_equals_separate(family: str, bits: int) -> None:
    model = build(FAMILIES[family])
    if bits:
        nn.quantize(model, group_size=32, bits=bits)
    before = np.array(model(TOKENS))
    made = join_projections(list(find_inner(model)[2]["layers"]))
    assert made == 2 * N_LAYERS
    assert np.allclose(np.array(model(TOKENS)), before, rtol=0, atol=1e-5 * np.abs(before).max())


def test_projections_that_cannot_be_joined_are_left_alone() -> None:
    model = build(FAMILIES["phi3"])  # its projections are already joined in the file
    assert join_projections(list(find_inner(model)[2]["layers"])) == 0


def test_mixed_quantization_is_left_alone() -> None:
    model = build(FAMILIES["llama"])
    nn.quantize(model, group_size=32, bits=4, class_predicate=lambda name, _: name.endswith("q_proj"))
    before = np.array(model(TOKENS))
    assert join_projections(list(find_inner(model)[2]["layers"])) == N_LAYERS  # only gate and up are joined
    assert np.allclose(np.array(model(TOKENS)), before, rtol=0, atol=1e-5 * np.abs(before).max())
