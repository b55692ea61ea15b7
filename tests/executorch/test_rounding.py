"""Four-bit matrices rounded with regard to their inputs, compared with plain rounding and the reference's layers."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from tests.executorch.exported import missing
from tests.tiny_gguf import Tiny, write_tiny

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())

N_OUT, N_IN = 48, 96


def correlated_inputs() -> np.ndarray:
    """[400, N_IN]: few directions carry most of the inputs, as in a trained model."""
    noise = np.random.default_rng(5)
    return noise.normal(size=(400, 12)) @ noise.normal(size=(12, N_IN)) + 0.1 * noise.normal(size=(400, N_IN))


def test_a_matrix_that_four_bits_represent_exactly_is_unchanged() -> None:
    import torch

    from edgeinfer.backends.executorch.export.rounding import rounded, spreads_of

    noise = np.random.default_rng(1)
    values = noise.integers(-8, 8, (N_OUT, N_IN))
    values[:, ::32] = -8
    scales = (2.0 ** noise.integers(-6, -2, (N_OUT, N_IN // 32))).astype(np.float32)
    weight = torch.from_numpy((values * np.repeat(scales, 32, 1)).astype(np.float32))
    found = rounded(weight, spreads_of(torch.from_numpy(correlated_inputs())))
    np.testing.assert_allclose(found.values * np.repeat(found.scales, 32, 1), weight.numpy(), rtol=0.02)
    assert found.values.dtype == np.int8 and (found.scales > 0).all()


@pytest.mark.parametrize(("span", "least_gain"), [(2048, 2.0), (64, 1.5)])
def test_products_lose_less_than_with_plain_rounding(
    span: int, least_gain: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from edgeinfer.backends.executorch.export import rounding
    from edgeinfer.backends.executorch.export.q4_0 import Q4Weight, q4_0_of, with_positive_scales
    from edgeinfer.backends.executorch.export.rounding import rounded, spreads_of

    monkeypatch.setattr(rounding, "SPAN", span)
    weight = np.random.default_rng(2).normal(size=(N_OUT, N_IN)).astype(np.float32)
    inputs = correlated_inputs()

    def lost(four_bits: Q4Weight) -> float:
        kept = four_bits.values * np.repeat(four_bits.scales, 32, 1)
        return float(np.square(inputs @ (kept - weight).T).mean())

    for_inputs, alone = rounded(torch.from_numpy(weight), spreads_of(torch.from_numpy(inputs))), q4_0_of(weight)
    unrelated = rounded(torch.from_numpy(weight), spreads_of(torch.eye(N_IN)))  # only the scales are optimized
    assert lost(for_inputs) < lost(unrelated) / least_gain
    assert lost(unrelated) < lost(with_positive_scales(alone))


def test_a_matrix_of_zeros_and_inputs_of_zeros() -> None:
    import torch

    from edgeinfer.backends.executorch.export.rounding import rounded, spreads_of

    found = rounded(torch.zeros(2, 64), spreads_of(torch.zeros(10, 64)))
    assert (found.values == 0).all() and np.isfinite(found.scales).all() and (found.scales > 0).all()


@pytest.mark.parametrize("architecture", ["llama", "qwen3"])
def test_the_sample_runs_through_the_layers_of_the_model(
    architecture: Literal["llama", "qwen3"], tmp_path: Path
) -> None:
    """In fp32 nothing is rounded, so the last states give the reference's logits."""
    import torch

    from edgeinfer.backends.executorch.export.calibrate import through
    from edgeinfer.backends.executorch.export.decoder import Decoder
    from edgeinfer.backends.executorch.export.source import open_source
    from edgeinfer.backends.reference import load_gguf
    from edgeinfer.window import WindowPolicy

    path = write_tiny(tmp_path / "tiny.gguf", Tiny(architecture=architecture, tier="F32"))
    tokens = [(11 * index) % 250 + 3 for index in range(20)]
    cache = load_gguf(path).new_cache(WindowPolicy(window=64, sink=0, block=16, limit=64))
    expected = [row.numpy() for row in cache.begin(16).verify(tokens[:16])]
    source = open_source(path)
    with torch.no_grad():
        decoder = Decoder(source, "fp32").eval()
        states = [decoder.embed(torch.tensor([tokens[:16]]))]
        for layer in decoder.layers:
            states = through(layer, source, states, decoder.frequencies)
        found = decoder.logits(states[0])
    np.testing.assert_allclose(found.numpy(), np.array(expected), atol=1e-3)


def test_a_matrix_that_the_file_stores_as_q4_0_is_not_rounded_again(tmp_path: Path) -> None:
    import torch

    from edgeinfer.backends.executorch.export.calibrate import calibrate
    from edgeinfer.backends.executorch.export.decoder import Decoder
    from edgeinfer.backends.executorch.export.source import open_source

    changed = {}
    for tier in ("Q4_0", "Q8_0"):
        source = open_source(write_tiny(tmp_path / f"{tier}.gguf", Tiny(tier=tier)))
        with torch.no_grad():
            decoder = Decoder(source, "8da4w").eval()
            before = decoder.layers[1].gate.weight.dequantize().clone()
            calibrate(decoder, source, [(11 * index) % 250 + 3 for index in range(300)])
            changed[tier] = bool((decoder.layers[1].gate.weight.dequantize() != before).any())
    assert changed == {"Q4_0": False, "Q8_0": True}
