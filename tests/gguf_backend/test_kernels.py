"""Kernels in place of ggml's: the same bits, how they get there, and what happens where they cannot."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("llama_cpp")

from edgeinfer.backends import gguf as backend
from edgeinfer.backends.gguf.facts import FACTS, OWN_ROWS
from edgeinfer.backends.gguf.kernels import library
from edgeinfer.backends.gguf.kernels.library import why_not
from edgeinfer.errors import UsageError
from edgeinfer.plan.types import Request
from edgeinfer.protocols import Cache
from edgeinfer.runner.choose import choose
from edgeinfer.window import WindowPolicy
from tests.gguf_backend.kernel_runs import DEVICE, EXACT, check_logits, needs_kernels, needs_vnni, run, with_mistake
from tests.tiny_gguf import Tier, Tiny, write_tiny

COMPARE = """
import sys
import numpy as np
from edgeinfer.backends.gguf.kernels.library import install
from edgeinfer.backends.gguf.kernels.self_test import multiply
from edgeinfer.device import detect

if sys.argv[1] == "own":
    assert install(detect(), {"F16"}) == {"F16": ""}
random = np.random.default_rng(1)
for n_rows, n_values in ((64, 64), (40, 96), (8, 576), (5, 1000), (17, 4096)):
    matrix = random.standard_normal((n_rows, n_values)).astype(np.float16)
    inputs = random.standard_normal((17, n_values)).astype(np.float32)
    single = np.concatenate([multiply(matrix, inputs[n : n + 1], n_threads=1) for n in range(17)])
    exact = inputs.astype(np.float16).astype(np.float64) @ matrix.astype(np.float64).T
    for n in range(2, 18):
        for n_threads in (1, 2, 3):
            found = multiply(matrix, inputs[:n], n_threads=n_threads)
            assert np.allclose(found, exact[:n], atol=1e-3 * n_values**0.5), (n, n_values)
            print(n_values, n, np.array_equal(found, single[:n]))
"""


def step(cache: Cache, token: int) -> np.ndarray:
    round_ = cache.begin(1)
    row = round_.verify([token])[0].numpy().copy()
    round_.commit(1)
    return row


def equal_by_rows(text: str) -> Mapping[int, bool]:
    lines = [line.split() for line in text.splitlines()]
    return {n: all(line[2] == "True" for line in lines if line[1] == str(n)) for n in range(2, 18)}


@needs_kernels
def test_up_to_16_rows_have_the_bits_of_single_ones() -> None:
    equal = equal_by_rows(run(COMPARE, "own"))
    assert all(equal[n] for n in range(2, 17))
    assert not equal[17]  # ggml's own kernel


@needs_kernels
def test_rows_of_ggml_alone_have_other_bits() -> None:
    """Without this, the test above would prove nothing."""
    assert not any(equal_by_rows(run(COMPARE, "stock")).values())


COMPARE_BLOCKS = """
import numpy as np
from edgeinfer.backends.gguf.kernels.library import install
from edgeinfer.backends.gguf.kernels.self_test import BLOCK_TYPES, multiply, multiply_singly
from edgeinfer.device import detect

SCALES = np.array([1.0, -0.3, 0.0, 6e-8, -1e-5, 2.5, -70.0], np.float16)  # 6e-8 and 1e-5 are denormal

def random_matrix(random, kind, n_rows, n_blocks):
    scales = random.choice(SCALES, (n_rows, n_blocks, kind.n_scales))
    values = random.integers(0, 256, (n_rows, n_blocks, kind.n_bytes), np.uint8)  # -128 among them
    values[random.random(values.shape) < 0.05] = {16: 255, 32: 128}[kind.n_bytes]
    matrix = np.concatenate((scales.view(np.uint8), values), axis=2).reshape(n_rows, -1)
    scales = scales.astype(np.float64)
    if kind.n_scales == 1:
        parts = (values.view(np.int8) * scales,)
    else:
        codes = np.concatenate((values & 15, values >> 4), axis=2)
        parts = codes * scales[..., :1], np.broadcast_to(scales[..., 1:], codes.shape)
    return matrix, [part.reshape(n_rows, -1) for part in parts]

def random_inputs(random, n, n_values):
    inputs = random.standard_normal((n, n_values))
    inputs[0] = np.where(random.random(n_values) < 0.5, 1.0, -1.0)  # 127 and -127
    inputs[1::5] *= 1e-5  # denormal scales
    inputs[2::5, :32] = 0.0
    inputs[3::5] *= 300.0
    return inputs.astype(np.float32)

for name in ("Q4_1", "Q8_0"):
    kind = BLOCK_TYPES[name]
    assert install(detect(), {name}) == {name: ""}
    random = np.random.default_rng(1)
    for n_rows, n_values in ((1, 32), (5, 160), (17, 96), (40, 576), (64, 1056), (33, 2048)):
        matrix, weights = random_matrix(random, kind, n_rows, n_values // 32)
        inputs = random_inputs(random, 256, n_values)
        single = multiply_singly(kind, matrix, inputs)
        exact = inputs.astype(np.float64) @ sum(weights).T
        step = np.abs(inputs).max(axis=1, keepdims=True) / 127 + 127 * 6e-8  # of an input in 8 bits, with its scale
        assert (np.abs(single - exact) <= step * sum(np.abs(part).sum(axis=1) for part in weights)).all()
        for n in (*range(1, 18), 32, 100, 129, 256):
            for n_threads in (1, 2, 3) if n < 8 or n == 256 else (2,):
                found = multiply(matrix, inputs[:n], ggml_type=kind.ggml_type, n_threads=n_threads)
                assert found.tobytes() == single[:n].tobytes(), (name, n_rows, n_values, n, n_threads)
        print(name, n_rows, n_values)
"""


@needs_vnni
def test_any_number_of_rows_times_blocks_has_the_bits_of_single_products() -> None:
    assert len(run(COMPARE_BLOCKS).splitlines()) == 12


@needs_kernels
def test_without_vnni_blocks_stay_with_ggml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "_FLAGS_BY_FEATURE", {})
    assert library.types_with_kernels() == ["F16", "Q4_0"]
    assert library.install(DEVICE, {"Q4_1", "Q8_0", "Q4_K"}) == {}


F16_MISTAKES = (
    ("sum[w][n][2]), add(sum[w][n][1]", "sum[w][n][1]), add(sum[w][n][2]"),  # another order of additions
    ("(share.index + 1) / share.of", "share.index / share.of"),  # shares of threads that end early
    ("first = product.n_inputs * panel / n_panels", "first = 0 * panel"),  # wrong inputs in a second panel
    ("int64_t i = from; i < to", "int64_t i = from + 1; i < to"),  # a short tail
)
Q4_0_MISTAKES = (
    ("_mm512_mul_ps(scales, _mm512_set1_ps(start.scale))", "_mm512_set1_ps(start.scale)"),  # a scale is left out
    ("_mm512_set1_epi8(0x08)", "_mm512_setzero_si512()"),  # values with their highest bit flipped
    ("_mm_sub_epi32(_mm_setzero_si128(), two)", "_mm_add_epi32(_mm_setzero_si128(), two)"),  # a wrong start of the sum
    ("7, 5, 3, 1, 6, 4, 2, 0", "7, 6, 5, 4, 3, 2, 1, 0"),  # rows in another order
    ("starts + panel.input * n_blocks}", "starts}"),  # the sums of other inputs in a second panel
    ("*second = matrix + n_blocks * WEIGHTS", "*second = matrix + WEIGHTS"),  # the second eight rows
)
AVX2_MISTAKES = (
    ("static_cast<char>(0x88)", "static_cast<char>(0x08)"),  # half of the values with their highest bit flipped
    ("half ? _mm256_add_epi16(sums_of_rows[n][four], sum) : sum", "sum"),  # a half of the products
    ("_mm_shuffle_epi32(halves, EVEN_PAIRS_FIRST)", "halves"),  # scales of other rows
    ("EVEN_PAIRS_FIRST = 0xD8", "EVEN_PAIRS_FIRST = 0xE4"),  # rows in another order
)
BLOCK_MISTAKES = (
    ("Q4_1", "(share.index + 1) / share.of", "share.index / share.of"),  # shares of threads that end early
    ("Q4_1", "(1u << n_rows) - 1", "(1u << n_rows) / 2 - 1"),  # the last row of a group
    ("Q4_1", "_mm512_set1_ps(inputs[n].sum)", "_mm512_set1_ps(inputs[n].scale)"),  # wrong minima
    ("Q8_0", "inputs + begin * product.n_blocks", "inputs"),  # the inputs of other panels
    ("Q8_0", "std::min(block + EARLY, n_blocks - 1)", "block"),  # scales of other blocks
    ("Q8_0", "_mm256_sub_epi32(_mm256_setzero_si256(), times_128)", "times_128"),  # a wrong start of the sum
    ("Q8_0", "FROM == Matrix::READ ? in_reg", "FROM != Matrix::KEPT ? in_reg"),  # blocks that are not kept for later
)


@needs_kernels
@pytest.mark.parametrize(("right", "wrong"), F16_MISTAKES)
def test_the_self_test_notices_a_mistake_in_f16(right: str, wrong: str, tmp_path: Path) -> None:
    assert "do not equal single rows" in run(with_mistake(tmp_path, "f16.cpp", right, wrong, test="F16"))


@needs_vnni
@pytest.mark.parametrize(("right", "wrong"), Q4_0_MISTAKES)
def test_the_self_test_notices_a_mistake_in_q4_0(right: str, wrong: str, tmp_path: Path) -> None:
    assert "do not equal those of ggml" in run(with_mistake(tmp_path, "q4_0.cpp", right, wrong, test="Q4_0"))


@needs_vnni
@pytest.mark.parametrize(("name", "right", "wrong"), BLOCK_MISTAKES)
def test_the_self_test_notices_a_mistake_in_blocks(name: str, right: str, wrong: str, tmp_path: Path) -> None:
    assert "do not equal those of ggml" in run(with_mistake(tmp_path, "blocks.cpp", right, wrong, test=name))


@needs_vnni
@pytest.mark.parametrize("name", ["Q4_1", "Q5_K"])
def test_the_self_test_notices_another_order_of_additions(name: str, tmp_path: Path) -> None:
    mistake = ("four[0], four[2]), _mm512_add_ps(four[1]", "four[0], four[1]), _mm512_add_ps(four[2]")
    assert "do not equal those of ggml" in run(with_mistake(tmp_path, "side_by_side.h", *mistake, test=name))


@needs_kernels
@pytest.mark.parametrize(("right", "wrong"), AVX2_MISTAKES)
def test_the_self_test_notices_a_mistake_in_q4_0_without_avx512(right: str, wrong: str, tmp_path: Path) -> None:
    code = with_mistake(tmp_path, "q4_0.cpp", right, wrong, test="Q4_0", features="{}")
    assert "do not equal those of ggml" in run(code)


@needs_kernels
def test_q4_0_without_avx512_has_the_bits_of_ggml(tmp_path: Path) -> None:
    code = with_mistake(tmp_path, "q4_0.cpp", "the bits of ggml", "the bits of ggml", test="Q4_0", features="{}")
    assert run(code) == "{'Q4_0': ''}\n"


@needs_kernels
def test_a_model_in_q4_0_has_the_logits_of_ggml(tmp_path: Path) -> None:
    mistake = ("q4_0.cpp", "half_to_float(scale)};", "2 * half_to_float(scale)};")
    check_logits("demo", tmp_path, mistake)


@needs_vnni
@pytest.mark.parametrize("tier", ["Q4_1", "Q8_0"])
def test_a_model_in_blocks_has_the_logits_of_ggml(tier: Tier, tmp_path: Path) -> None:
    mistake = ("blocks.cpp", "_mm512_set1_ps(inputs[n].scale)", "_mm512_set1_ps(2 * inputs[n].scale)")
    check_logits(str(write_tiny(tmp_path / "tiny.gguf", Tiny(tier=tier))), tmp_path, mistake)


@pytest.mark.parametrize("switch", ["on", "off"])
@pytest.mark.parametrize("tier", ["Q4_0", "Q4_1", "Q8_0"])
def test_16_rows_of_a_model_have_the_bits_of_single_ones(tier: Tier, switch: str, tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "tiny.gguf", Tiny(tier=tier))
    expected = FACTS.exact_rows(DEVICE, frozenset({tier}), "q8_0/f16")
    if expected is None:
        pytest.skip("measured on x86")
    assert run(EXACT, str(path), EDGEINFER_PATCH_LLAMA=switch) == "16\n"


def test_the_switch_and_a_missing_compiler_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if not why_not(DEVICE):
        monkeypatch.setenv("EDGEINFER_PATCH_LLAMA", "off")
        assert why_not(DEVICE) == "EDGEINFER_PATCH_LLAMA=off forbids them"
        monkeypatch.setenv("EDGEINFER_PATCH_LLAMA", "maybe")
        with pytest.raises(UsageError, match="is `maybe`"):
            why_not(DEVICE)
        monkeypatch.delenv("EDGEINFER_PATCH_LLAMA")
        monkeypatch.setenv("PATH", str(tmp_path))
        assert why_not(DEVICE) == "there is no C++ compiler to build them"
    assert why_not(replace(DEVICE, cpu_features=frozenset())) == "they are for Linux on x86-64 with AVX2"


@needs_kernels
def test_a_compiler_that_fails_leaves_the_rows_of_ggml(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'f16.cpp:1: error: no such thing' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = write_tiny(tmp_path / "f16.gguf", Tiny(tier="F16"))
    plan = choose(Request(model=str(path), context=512), offline=True)
    model = backend.BACKEND.load(plan, path)
    try:
        assert model.exact_rows is None
        assert "not in use: their library cannot be built: f16.cpp:1: error: no such thing" in model.note
        assert not list((tmp_path / "cache").rglob("*.so"))
    finally:
        model.close()


@needs_kernels
def test_they_are_not_built_where_memory_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    short = replace(DEVICE, available_bytes=500_000_000)
    reason = "to build them takes 600 MB of memory, and 500 MB are free"
    assert library.install(short, {"Q4_0", "Q2_K"}) == {"Q4_0": reason}
    assert not list(tmp_path.rglob("*.so"))


@needs_kernels
def test_an_f16_file_has_exact_rows(tmp_path: Path) -> None:
    path = write_tiny(tmp_path / "f16.gguf", Tiny(tier="F16"))
    plan = choose(Request(model=str(path), context=512), offline=True)
    assert plan.speculation.exact
    model = backend.BACKEND.load(plan, path)
    try:
        assert (model.exact_rows, model.note) == (OWN_ROWS, "")
        plain, cache = (model.new_cache(WindowPolicy(window=64, sink=0, block=16, limit=256)) for _ in range(2))
        tokens = [5, 6, 7, 8, 9, 10, 11]
        rows = [row.numpy().copy() for row in cache.begin(len(tokens)).verify(tokens)]
        singly = [step(plain, token) for token in tokens]
        assert np.array_equal(rows, singly)
    finally:
        model.close()


def test_a_plan_for_another_device_does_not_count_on_them() -> None:
    types = frozenset({"F16"})
    assert FACTS.exact_rows(replace(DEVICE, named=True), types, "q8_0/f16") is None
    assert (FACTS.exact_rows(DEVICE, types, "q8_0/f16") == OWN_ROWS) == (not why_not(DEVICE))
    assert FACTS.exact_rows(DEVICE, types, "f16") is None
