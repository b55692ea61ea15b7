"""The demo in a larger shape gives the logits of the demo."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.models.wide_draft import widen_draft
from benchmarks.models.widen import WideShape, widen
from edgeinfer.backends.reference import load_gguf
from edgeinfer.prefill import prefill
from edgeinfer.window import WindowPolicy
from tests.tiny_draft import draft_beside, write_tiny_draft
from tests.tiny_gguf import Tiny, write_tiny

POLICY = WindowPolicy(window=64, sink=0, block=16, limit=64)
TOKENS = [5, 17, 42, 3, 3, 99, 7, 250]


Rows = np.ndarray[tuple[int, ...], np.dtype[np.float32]]


def rows_of(path: Path, *, draft: bool = False) -> Rows:
    """The rows after two tokens, or of two drafts after them."""
    model = load_gguf(path, draft=draft_beside(path) if draft else None)
    cache = model.new_cache(POLICY)
    prefill(cache, TOKENS)
    opened = cache.begin(2)
    found = [opened.draft(token) for token in (11, 12)] if draft else opened.verify([11, 12])
    rows = [row.numpy().copy() for row in found]
    opened.rollback()
    model.close()
    return np.stack(rows)


def wide_shape(tiny: Tiny) -> WideShape:
    return WideShape(
        n_layers=tiny.n_layers + 1,
        hidden=4 * tiny.hidden,
        n_heads=4 * tiny.n_heads,
        n_kv_heads=2 * tiny.n_kv_heads,
        head_dim=tiny.hidden // tiny.n_heads,
        n_ffn=4 * tiny.n_ffn,
        exit_layer=1,
    )


def test_a_wide_model_gives_the_logits_of_the_narrow_one(tmp_path: Path) -> None:
    tiny = Tiny(tier="F16", tied=True)
    narrow = write_tiny(tmp_path / "narrow.gguf", tiny)
    widen(narrow, tmp_path / "wide.gguf", wide_shape(tiny))
    assert (tmp_path / "wide.gguf").stat().st_size > 3 * narrow.stat().st_size
    before, after = rows_of(narrow), rows_of(tmp_path / "wide.gguf")
    assert np.ptp(before) > 0.5  # the logits are not all equal
    assert after == pytest.approx(before, abs=2e-3)


@pytest.mark.parametrize("kind", [{"taps": (1, 4)}, {"exit_layer": 2}], ids=["feature", "exit"])
def test_a_wide_draft_guesses_like_the_narrow_one(tmp_path: Path, kind: dict[str, Any]) -> None:
    tiny = Tiny(tier="F16", tied=True)
    narrow, wide = write_tiny(tmp_path / "narrow.gguf", tiny), tmp_path / "wide.gguf"
    widen(narrow, wide, wide_shape(tiny))
    write_tiny_draft(draft_beside(narrow), narrow, **kind)
    widen_draft(draft_beside(narrow), narrow, wide, draft_beside(wide))
    before, after = rows_of(narrow, draft=True), rows_of(wide, draft=True)
    can_say = np.isfinite(before)
    assert np.ptp(before[can_say]) > 0.5
    assert np.array_equal(np.isfinite(after), can_say)
    assert after[can_say] == pytest.approx(before[can_say], abs=0.1)  # TAP_EPS has more weight in the wide draft
