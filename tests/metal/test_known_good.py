"""The simulator on kernels that are known to be correct on Metal: those of mlx-lm and the attention of MLX, read from
the installed packages. It must agree with NumPy, and none of its stricter rules may fire.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")
mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed")

from tests.metal.simulator import MetalSource, Run, Simulator, cpp_text, from_bits, generate, numpy_bits  # noqa: E402

SDPA = Path(mx.__file__).parent / "include/mlx/backend/metal/kernels/sdpa_vector.h"
RNG = np.random.default_rng(5)


class Recorded:
    """Stands for `mx.fast.metal_kernel` functions of a module: runs each call in the simulator."""

    def __init__(self, simulator: Simulator, function: Any) -> None:
        self.simulator, self.function = simulator, function

    def __call__(self, **call: Any) -> list[Any]:
        outputs = list(zip(call["output_shapes"], call["output_dtypes"], strict=True))
        program = self.simulator.build(cpp_text(generate(self.function, call)))
        buffers: list[np.ndarray | int] = [numpy_bits(mx.array(array)) for array in call["inputs"]]
        buffers += [int(np.prod(shape)) * dtype.size for shape, dtype in outputs]
        runs = [
            Run(tuple(buffers), call["grid"], call["threadgroup"], order) for order in ("forward", "reverse", "random")
        ]
        answers = self.simulator.run(program, runs)
        assert answers[0] == answers[1] == answers[2], "the result depends on the order of threads"
        return [from_bits(data, shape, dtype) for data, (shape, dtype) in zip(answers[0], outputs, strict=True)]


def simulated(simulator: Simulator, monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """The module mlx_lm.kernels.NAME with its Metal functions replaced."""
    module = pytest.importorskip(f"mlx_lm.kernels.{name}")
    for key in [key for key in vars(module) if re.fullmatch(r"_\w+_kernel", key)]:
        monkeypatch.setattr(module, key, Recorded(simulator, getattr(module, key)))
    return module


def normal(*shape: int) -> Any:
    return mx.array(RNG.normal(size=shape), mx.float32)


def assert_close(got: Any, expected: Any, tolerance: float = 2e-6) -> None:
    assert np.allclose(np.array(got), np.array(expected), rtol=tolerance, atol=tolerance)


def rms(x: Any, eps: float) -> Any:
    return x * mx.rsqrt((x * x).mean(axis=-1, keepdims=True) + eps)


def test_the_qk_norm_of_mlx_lm_is_computed(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    module = simulated(simulator, monkeypatch, "qk_norm")
    qkvg = normal(3, 2 * (4 + 2) * 48)
    q, k = module.qk_norm(qkvg, n_heads=4, n_kv_heads=2, head_dim=48, eps=1e-5, query_scale=0.25)
    heads = qkvg[:, : 6 * 48].reshape(3, 6, 48)
    assert_close(q, rms(heads[:, :4], 1e-5) * 0.25)
    assert_close(k, rms(heads[:, 4:], 1e-5))


def test_the_expert_routing_of_mlx_lm_is_computed(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    module = simulated(simulator, monkeypatch, "expert_routing")
    logits, bias = normal(5, 40), normal(40) * 0.1
    chosen, weights = module.expert_routing(logits, bias, top_k=4, multiplier=1.5, score_eps=1e-6, route_scale=2.0)
    scores = 1 / (1 + np.exp(-1.5 * np.array(logits, np.float64)))
    order = np.argsort(-(scores + np.array(bias)), axis=-1)[:, :4]
    assert (np.array(chosen) == order).all()
    picked = np.take_along_axis(scores, order, axis=-1)
    assert_close(weights, picked / (picked.sum(axis=-1, keepdims=True) + 1e-6) * 2.0)


def test_the_norm_add_norm_of_mlx_lm_is_computed(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Barriers, a two-dimensional threadgroup array, and sums across SIMD groups."""
    from mlx import nn

    module = simulated(simulator, monkeypatch, "norm_add_norm")
    norm = nn.RMSNorm(768, eps=1e-5)
    norm.weight = normal(768)
    branch, stream, alpha, beta = normal(2, 768), normal(2, 768), normal(768), normal(768)
    got, normed = module.norm_add_norm(
        branch, stream, alpha=alpha, beta=beta, post_weight=None, post_eps=1e-6, next_norm=norm
    )
    expected = alpha * stream + beta * rms(branch, 1e-6)
    assert_close(got, expected, 5e-6)
    assert_close(normed, rms(expected, 1e-5) * norm.weight, 5e-6)


def sdpa_program(dtype: str, *, causal: bool, sinks: bool) -> str:
    text = SDPA.read_text()
    text = text[: text.index("template <typename T, int D, int V = D, int TK = 4>")]
    constants = dict.fromkeys(("has_mask", "query_transposed", "bool_mask", "float_mask"), "false")
    constants |= {"do_causal": str(causal).lower(), "has_sinks": str(sinks).lower(), "blocks": "1"}
    return cpp_text(MetalSource(text, f"sdpa_vector<{dtype}, 64>"), constants)


@pytest.mark.skipif(not SDPA.is_file(), reason="this wheel has no kernel headers")
@pytest.mark.parametrize("causal", [False, True], ids=["one-row", "causal"])
def test_the_attention_of_mlx_is_computed(simulator: Simulator, causal: bool) -> None:
    """1024 threads in 32 SIMD groups, learned sinks, exchange through threadgroup memory."""
    n_heads, n_kv_heads, n_keys, n_rows = 4, 2, 75, 3 if causal else 1
    q, k, v, sinks = (
        normal(n_heads, n_rows, 64),
        normal(n_kv_heads, n_keys, 64),
        normal(n_kv_heads, n_keys, 64),
        normal(4),
    )

    def number(value: float, kind: Any) -> np.ndarray:
        return np.array([value], kind)

    size = np.uint64
    buffers: list[np.ndarray | int] = [
        *(numpy_bits(array) for array in (q, k, v)),
        n_heads * n_rows * 64 * 4,
        number(n_heads // n_kv_heads, np.int32),
        number(n_keys, np.int32),
        *(number(value, size) for value in (n_keys * 64, 64, n_keys * 64, 64)),
        number(0.125, np.float32),
        *(number(0, np.int32) for _ in range(5)),
        numpy_bits(sinks),
        number(n_heads, np.int32),
    ]
    program = simulator.build(sdpa_program("float", causal=causal, sinks=True))
    grid = (n_heads * 1024, n_rows, 1)
    runs = [Run(tuple(buffers), grid, (1024, 1, 1), order) for order in ("forward", "random")]
    answers = simulator.run(program, runs)
    assert answers[0] == answers[1]
    wide = [np.repeat(np.array(array, np.float64), n_heads // n_kv_heads, axis=0) for array in (k, v)]
    scores = np.einsum("hqd,hkd->hqk", np.array(q, np.float64), wide[0]) * 0.125
    if causal:
        scores += np.where(np.arange(n_keys) <= n_keys - n_rows + np.arange(n_rows)[:, None], 0, -np.inf)
    logits = np.concatenate([scores, np.broadcast_to(np.array(sinks)[:, None, None], (n_heads, n_rows, 1))], axis=-1)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    expected = np.einsum("hqk,hkd->hqd", weights[..., :-1], wide[1])
    assert_close(from_bits(answers[0][0], (n_heads, n_rows, 64), mx.float32), expected)
