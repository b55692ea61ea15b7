"""A taught draft in the exporter: its tensors, how they are quantized, its inputs against NumPy. Nothing is lowered."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeinfer.backends.executorch.export.source import Source, open_source
from edgeinfer.backends.taught import FeatureInputs
from edgeinfer.formats.draft_file import DraftFile, read_draft_file
from tests.executorch.exported import missing
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Architecture, Tier, Tiny, write_tiny

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def written(folder: Path, architecture: Architecture = "llama", tier: Tier = "F32") -> tuple[Source, DraftFile]:
    model = write_tiny(folder / "tiny.gguf", Tiny(architecture=architecture, tier=tier, positive_scales=True))
    return open_source(model), read_draft_file(write_tiny_draft(draft_beside(model), model, (1, 4)))


@pytest.mark.parametrize(
    ("architecture", "rows"), [("llama", [*range(0, 32, 2), *range(1, 32, 2)]), ("qwen3", [*range(32)])]
)
def test_rows_of_queries_and_keys_lie_in_halves(tmp_path: Path, architecture: Architecture, rows: list[int]) -> None:
    """Of each head of 32 rows. A draft of a llama model turns neighbors."""
    from edgeinfer.backends.executorch.export.taught import DraftSource

    model, file = written(tmp_path, architecture)
    source = DraftSource(file, model)
    for part in ("attn_q", "attn_k"):
        whole = file.tensor(part)
        expected = np.concatenate([whole[head : head + 32][rows] for head in range(0, len(whole), 32)])
        assert np.array_equal(source.floats(f"blk.0.{part}"), expected)
    assert np.array_equal(source.floats("blk.0.attn_v"), file.tensor("attn_v"))
    assert source.shape.norm_eps == file.norm_eps
    assert source.has("join") and not source.has("blk.0.attn_q_norm") and not source.has("blk.0.attn_q.bias")


def test_the_head_is_rows_of_the_models_own_and_other_matrices_have_8_bits(tmp_path: Path) -> None:
    import torch

    from edgeinfer.backends.executorch.export.decoder import Decoder, Linear
    from edgeinfer.backends.executorch.export.taught import Draft

    model, file = written(tmp_path, tier="Q4_0")
    decoder = Decoder(model, "8da4w")
    draft = Draft(file, model, decoder, "8da4w")
    ranked = torch.from_numpy(file.ranked_tokens.astype(np.int64))
    assert torch.equal(draft.head.dequantize(), decoder.head.weight.dequantize()[ranked])
    own = [module for part in (draft.layer, draft.taps, draft.join) for module in part.modules()]
    types = {module.weight.target_dtype for module in own if isinstance(module, Linear)}
    assert types == {torch.int8} and draft.head.target_dtype == torch.int4


def test_the_inputs_of_a_feature_draft_are_those_of_numpy(tmp_path: Path) -> None:
    import torch

    from edgeinfer.backends.executorch.export.decoder import Decoder
    from edgeinfer.backends.executorch.export.taught import Draft, DraftInput, DraftKnown

    model, file = written(tmp_path)
    draft = Draft(file, model, Decoder(model, "fp32"), "fp32")
    embedding, ids = model.floats("token_embd"), [5, 7, 260]
    inputs = FeatureInputs(file, lambda tokens: embedding[np.array(tokens)])
    tapped = np.random.default_rng(0).standard_normal((3, 2 * 128)).astype(np.float32)
    with torch.no_grad():
        known = DraftKnown(draft)(torch.from_numpy(tapped)[None])
        rows = DraftInput(draft)(torch.tensor([ids]), known)
    assert np.allclose(known[0].numpy(), inputs.known(tapped), atol=1e-4)
    assert np.allclose(rows[0].numpy(), inputs.rows(ids, inputs.known(tapped)), atol=1e-4)
