"""The demo in a larger shape gives the demo's own logits."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.models.widen import WideShape, widen
from edgeinfer.backends.reference import load_gguf
from edgeinfer.prefill import prefill
from edgeinfer.window import WindowPolicy
from tests.tiny_gguf import Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=0, block=16, limit=64)
TOKENS = [5, 17, 42, 3, 3, 99, 7, 250]


def logits(path: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    model = load_gguf(path)
    cache = model.new_cache(POLICY)
    prefill(cache, TOKENS)
    opened = cache.begin(2)
    rows = [row.numpy().copy() for row in opened.verify([11, 12])]
    opened.rollback()
    model.close()
    return np.stack(rows)


def test_a_wide_model_is_the_narrow_one(tmp_path: Path) -> None:
    tiny = Tiny(tier="F16", tied=True)
    narrow = write_tiny(tmp_path / "narrow.gguf", tiny)
    head_dim = tiny.hidden // tiny.n_heads
    wide = WideShape(
        n_layers=tiny.n_layers + 1,
        hidden=4 * tiny.hidden,
        n_heads=4 * tiny.n_heads,
        n_kv_heads=2 * tiny.n_kv_heads,
        head_dim=head_dim,
        n_ffn=4 * tiny.n_ffn,
        exit_layer=1,
    )
    widen(narrow, tmp_path / "wide.gguf", wide)
    assert (tmp_path / "wide.gguf").stat().st_size > 3 * narrow.stat().st_size
    before, after = logits(narrow), logits(tmp_path / "wide.gguf")
    assert np.ptp(before) > 0.5  # logits that say something
    assert after == pytest.approx(before, abs=2e-3)
