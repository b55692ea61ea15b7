"""Greedy tokens without logits, only where the head read from the modules equals the stock head."""

from __future__ import annotations

import dataclasses

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

import mlx.nn as nn  # noqa: E402

from edgeinfer.backends.mlx import kernels as kernels_module  # noqa: E402
from edgeinfer.backends.mlx.adapter import Stages  # noqa: E402
from edgeinfer.backends.mlx.kernels import Kernels  # noqa: E402
from edgeinfer.backends.mlx.kernels.head import head_top1_twin  # noqa: E402
from edgeinfer.backends.mlx.top1 import agrees, find_head  # noqa: E402
from edgeinfer.prefill import prefill  # noqa: E402
from edgeinfer.window import WindowPolicy  # noqa: E402
from tests.mlx_backend.families import FAMILIES, build, open_model  # noqa: E402

POLICY = WindowPolicy(window=32, sink=4, block=8, limit=128)
TOP1 = Kernels(frozenset({"head_top1"}))


@pytest.fixture(autouse=True)
def twin_for_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Metal, the twin stands in for the kernel."""
    monkeypatch.setattr(kernels_module, "head_top1_kernel", lambda x, head, launch: head_top1_twin(x, head))


@pytest.mark.parametrize("family", ["llama", "llama-untied", "qwen3", "mistral3"])
def test_tokens_are_the_stock_argmax(family: str) -> None:
    model = build(FAMILIES[family])
    nn.quantize(model, group_size=32, bits=4)
    assert find_head(model, Stages(model, 3), TOP1) is not None
    plain, fast = (open_model(model, 3, kernels=kernels).new_cache(POLICY) for kernels in (Kernels(), TOP1))
    assert prefill(fast, [1, 2, 3]).argmax() == prefill(plain, [1, 2, 3]).argmax()
    first, second = fast.begin(4), plain.begin(4)
    got = [row.argmax() for row in first.verify([4, 5, 6, 7])]
    want = [row.argmax() for row in second.verify([4, 5, 6, 7])]
    assert got == want


@pytest.mark.parametrize("family", ["granite", "cohere2", "gemma3_text"])
def test_a_head_with_scaled_logits_or_a_changed_norm_is_left_alone(family: str) -> None:
    model = build(FAMILIES[family])
    nn.quantize(model, group_size=32, bits=4)
    assert find_head(model, Stages(model, 3), TOP1) is None


def test_the_trial_finds_a_wrong_softcap() -> None:
    model = build(FAMILIES["llama"])
    nn.quantize(model, group_size=32, bits=4)
    stages = Stages(model, 3)
    head = find_head(model, stages, TOP1)
    assert head is not None
    assert not agrees(dataclasses.replace(head, softcap=1.0), stages, TOP1, model.model.norm.weight)


def test_off_means_the_stock_head() -> None:
    model = build(FAMILIES["llama"])
    assert find_head(model, Stages(model, 3), Kernels()) is None
