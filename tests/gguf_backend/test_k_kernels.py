"""Kernels for K quants: several rows have the bits of single ones, which they have not in ggml."""

from __future__ import annotations

import platform
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends.gguf.facts import FACTS
from edgeinfer.backends.gguf.model import EngineSettings, exact_rows
from edgeinfer.backends.gguf.quantize import quantize
from edgeinfer.formats.gguf_header import read_header
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
K_BLOCK_MISTAKES = (
    ("Q6_K", "upper(words, byte, byte + 1), 3)", "upper(words, byte + 1, byte), 3)"),  # sums of other values
    ("Q6_K", "part * FACTORS / PARTS", "0 * FACTORS"),  # factors of the other half of a group
    ("Q6_K", "_mm512_slli_epi16(high[i], 2), 0x30", "_mm512_slli_epi16(high[i], 4), 0x30"),  # bits of another group
    ("Q6_K", "(1u << n_rows) - 1", "(1u << n_rows) / 2 - 1"),  # the last row of a group
    ("Q6_K", "(share.index + 1) / share.of", "share.index / share.of"),  # shares of threads that end early
    ("Q6_K", "stride, sums + n)", "stride, sums)"),  # the sums of other inputs
    ("Q6_K", "_mm512_set1_ps(inputs[n * stride].scale)", "_mm512_set1_ps(inputs[0].scale)"),  # another's scale
    ("Q5_K", "set1_ps(-inputs", "set1_ps(inputs"),  # minima are added
    ("Q5_K", "others(high_4(words[3]), words[2])", "others(low_4(words[3]), words[2])"),  # minima of other groups
    ("Q5_K", "2 * pair + 1), 0x10", "2 * pair), 0x10"),  # the upper bits of another group
)
COMPARE = """
import numpy as np
from edgeinfer.backends.gguf.kernels.library import install
from edgeinfer.backends.gguf.kernels import self_test
from edgeinfer.backends.gguf.kernels.self_test import BLOCK_TYPES, multiply, multiply_singly, random_matrix
from edgeinfer.device import detect

self_test._ARENA_BYTES = 64 << 20
for name in ("Q5_K", "Q6_K"):
    kind = BLOCK_TYPES[name]
    assert install(detect(), {name}) == {name: ""}
    random = np.random.default_rng(1)
    for n_rows, n_blocks in ((1, 1), (5, 2), (17, 3), (40, 4), (64, 8), (16, 70)):
        matrix = random_matrix(random, kind, n_rows, n_blocks)
        inputs = random.standard_normal((200, n_blocks * 256)).astype(np.float32)
        inputs[0] = np.where(random.random(inputs.shape[1]) < 0.5, 1.0, -1.0)  # 127 and -127
        inputs[1::5] *= 1e-38  # denormal scales
        inputs[2::5, :256] = 0.0
        inputs[3::5] *= 300.0
        single = multiply_singly(kind, matrix, inputs)
        for n in (*range(1, 18), 32, 63, 64, 65, 100, 129, 200):
            for n_threads in (1, 2, 3) if n < 8 or n == 200 else (2,):
                found = multiply(matrix, inputs[:n], ggml_type=kind.ggml_type, n_threads=n_threads)
                assert found.tobytes() == single[:n].tobytes(), (name, n_rows, n_blocks, n, n_threads)
        print(name, n_rows, n_blocks)
"""


@needs_vnni
@pytest.mark.parametrize(("name", "right", "wrong"), K_BLOCK_MISTAKES)
def test_the_self_test_notices_a_mistake_in_k_blocks(name: str, right: str, wrong: str, tmp_path: Path) -> None:
    assert "do not equal those of ggml" in run(with_mistake(tmp_path, "k_blocks.cpp", right, wrong, test=name))


@needs_vnni
def test_the_self_test_notices_rows_that_stay_with_ggml(tmp_path: Path) -> None:
    mistake = ("const bool is_ours = (type", "const bool is_ours = false && (type")
    assert "9 rows" in run(with_mistake(tmp_path, "install.cpp", *mistake, test="Q6_K"))


@needs_vnni
def test_any_number_of_rows_times_k_blocks_has_the_bits_of_single_products() -> None:
    assert len(run(COMPARE).splitlines()) == 12


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
@pytest.mark.parametrize("tier", ["Q5_K_S", "Q6_K"])
def test_up_to_7_rows_of_k_blocks_have_the_logits_of_ggml(tier: str, tmp_path: Path) -> None:
    mistake = ("k_blocks.cpp", "_mm512_mul_ps(matrix.scale", "_mm512_mul_ps(2 * matrix.scale")
    check_logits(str(write_k_quants(tmp_path, tier)), tmp_path, mistake, n_as_ggml=6, n_left=1)


@needs_vnni
@pytest.mark.parametrize("tier", ["Q4_K_S", "Q5_K_S", "Q6_K"])
def test_16_rows_of_k_quants_have_the_bits_of_single_ones(tier: str, tmp_path: Path) -> None:
    assert run(EXACT, str(write_k_quants(tmp_path, tier))) == "16\n"


@needs_vnni
@pytest.mark.parametrize(("tier", "expected"), [("Q4_K_S", "3\n"), ("Q5_K_S", "7\n"), ("Q6_K", "7\n")])
def test_fewer_rows_have_them_with_the_kernels_of_ggml(tier: str, expected: str, tmp_path: Path) -> None:
    assert run(EXACT, str(write_k_quants(tmp_path, tier)), EDGEINFER_PATCH_LLAMA="off") == expected


@pytest.mark.skipif(FACTS.exact_rows(DEVICE, {"Q8_0"}, "q8_0/f16") is None, reason="measured on x86")
@pytest.mark.parametrize("tier", ["Q5_0", "Q5_1"])
def test_16_rows_of_what_takes_the_place_of_k_quants_have_them_too(tier: str, tmp_path: Path) -> None:
    floats = write_tiny(tmp_path / "floats.gguf", Tiny(tier="F16"))
    quantize(floats, tmp_path / "quantized.gguf", tier, pure=True)
    assert run(EXACT, str(tmp_path / "quantized.gguf"), EDGEINFER_PATCH_LLAMA="off") == "16\n"


@needs_vnni
def test_plans_know_of_exact_rows_before_a_model_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {}
    for switch in ("on", "off"):
        monkeypatch.setenv("EDGEINFER_PATCH_LLAMA", switch)
        rows[switch] = [FACTS.exact_rows(DEVICE, types, "q8_0/f16") for types in ({"Q4_K"}, {"Q4_K", "Q6_K"})]
    assert rows == {"on": [16, 16], "off": [3, 3]}


def test_a_matrix_that_ggml_does_not_repack_has_the_exact_rows_of_ggml(tmp_path: Path) -> None:
    header = read_header(write_k_quants(tmp_path, "Q4_K_S"))
    settings = EngineSettings(2, "q8_0/f16", exact_types=frozenset({"Q4_K"}))
    odd = [replace(one, shape=(one.shape[0], 321)) if one.name == "output.weight" else one for one in header.tensors]
    found = [exact_rows(one, settings) for one in (header, replace(header, tensors=tuple(odd)))]
    assert found == ([16, 3] if platform.machine() == "x86_64" else [None, None])
