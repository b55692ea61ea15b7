"""Kernels for Q4_K matrices: several rows have the bits of single ones, which they have not in ggml."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf.facts import FACTS
from edgeinfer.backends.gguf.quantize import quantize
from tests.gguf_backend.kernel_runs import DEVICE, EXACT, check_logits, needs_vnni, run, with_mistake
from tests.tiny_gguf import Tiny, write_tiny

Q4_K_MISTAKES = (
    ("_mm512_set1_epi32(6 * (pair % 2))", "_mm512_setzero_si512()"),  # the scales of another pair
    ("_mm512_and_si512(_mm512_srli_epi16(packed, 4), low)", "_mm512_srli_epi16(packed, 4)"),  # neighbors' bits
    ("shuffle_ps(t, m, 0x84)", "shuffle_ps(t, m, 0x88)"),  # minima of one part twice
    ("_mm256_sub_ps(", "_mm256_add_ps("),  # minima are added
    ("data + panel.input * n_blocks * INPUT, n_blocks}", "data, n_blocks}"),  # the inputs of another panel
    ("cmp_ps_mask(magnitudes, peak", "cmp_ps_mask(peak, peak"),  # the first value instead of the furthest from 0
    ("_mm512_set1_ps(inputs.at(n, block).scale())", "_mm512_set1_ps(inputs.at(0, block).scale())"),  # another's scale
)


@needs_vnni
@pytest.mark.parametrize(("right", "wrong"), Q4_K_MISTAKES)
def test_the_self_test_notices_a_mistake_in_q4_k(right: str, wrong: str, tmp_path: Path) -> None:
    assert "do not equal those of ggml" in run(with_mistake(tmp_path, "q4_K.cpp", right, wrong, test="Q4_K"))


def write_k_quants(folder: Path, tier: str) -> Path:
    """Every matrix in one type, in rows of at least 256 values."""
    floats = write_tiny(folder / "floats.gguf", Tiny(tier="F16", hidden=256, n_heads=8, n_ffn=512))
    quantize(floats, folder / f"{tier}.gguf", tier, pure=True)
    return folder / f"{tier}.gguf"


@needs_vnni
def test_up_to_3_rows_of_q4_k_have_the_logits_of_ggml(tmp_path: Path) -> None:
    mistake = ("q4_K.cpp", "_mm512_cvtph_ps(", "2 * _mm512_cvtph_ps(")
    check_logits(str(write_k_quants(tmp_path, "Q4_K_S")), tmp_path, mistake, n_as_ggml=3)


@needs_vnni
@pytest.mark.parametrize(("switch", "expected"), [("on", "16\n"), ("off", "3\n")])
def test_exact_rows_of_q4_k_have_the_bits_of_single_ones(switch: str, expected: str, tmp_path: Path) -> None:
    assert run(EXACT, str(write_k_quants(tmp_path, "Q4_K_S")), EDGEINFER_PATCH_LLAMA=switch) == expected


@needs_vnni
def test_plans_know_of_exact_rows_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {}
    for switch in ("on", "off"):
        monkeypatch.setenv("EDGEINFER_PATCH_LLAMA", switch)
        rows[switch] = [FACTS.exact_rows(DEVICE, types, "q8_0/f16") for types in ({"Q4_K"}, {"Q4_K", "Q6_K"})]
    assert rows == {"on": [16, 5], "off": [3, 3]}
