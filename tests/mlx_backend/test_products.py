"""Which products of a model go to `rows_matmul`, and that the model's rows stay what they were."""

from __future__ import annotations

from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

import mlx.nn as nn  # noqa: E402
import numpy as np  # noqa: E402

from edgeinfer.backends.mlx import kernels as kernels_module  # noqa: E402
from edgeinfer.backends.mlx.adapter import find_inner  # noqa: E402
from edgeinfer.backends.mlx.joined import join_projections  # noqa: E402
from edgeinfer.backends.mlx.kernels import Kernels  # noqa: E402
from edgeinfer.backends.mlx.kernels.matmul import rows_matmul_twin  # noqa: E402
from edgeinfer.backends.mlx.products import route_products  # noqa: E402
from tests.mlx_backend.families import FAMILIES, N_LAYERS, build  # noqa: E402

PRODUCTS = Kernels(frozenset({"rows_matmul"}), is_quicker=lambda *_: True)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """There is no Metal here: the twin answers in the kernel's place. The shapes that it served."""
    shapes: list[tuple[int, ...]] = []

    def kernel(x: Any, matrix: Any, launch: object) -> Any:
        shapes.append(x.shape)
        return rows_matmul_twin(x, matrix)

    monkeypatch.setattr(kernels_module, "rows_matmul_kernel", kernel)
    return shapes


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral3"])  # qwen2 has biases
def test_a_few_rows_go_to_the_kernel_and_give_the_same(
    family: str, joined: bool, served: list[tuple[int, ...]]
) -> None:
    model = build(FAMILIES[family])
    nn.quantize(model, group_size=32, bits=4)
    layers = list(find_inner(model)[2]["layers"])
    tokens = {n: mx.array([[3, 1, 4, 1, 5, 9, 2, 6, 5][:n]]) for n in (1, 3, 9)}
    before = {n: np.array(model(ids)) for n, ids in tokens.items()}
    if joined:
        join_projections(layers)
    assert route_products(layers, PRODUCTS) == N_LAYERS * (4 if joined else 7)
    assert layers[0].mlp.down_proj.bits == 4 and layers[0].mlp.down_proj.weight.dtype == mx.uint32
    for n, ids in tokens.items():
        served.clear()
        assert np.allclose(np.array(model(ids)), before[n], rtol=0, atol=1e-5 * np.abs(before[n]).max())
        assert bool(served) == (n == 3)
    packed = model(tokens[3].T)  # a row of each of three conversations
    assert packed.shape[:2] == (3, 1) and served[-1][0] == 3


def test_without_the_kernel_nothing_is_routed() -> None:
    model = build(FAMILIES["llama"])
    nn.quantize(model, group_size=32, bits=4)
    assert route_products(list(find_inner(model)[2]["layers"]), Kernels()) == 0
