"""clang accepts every kernel, with address spaces."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from edgeinfer.backends.mlx.kernels.launch import SIGNATURES, Launch  # noqa: E402
from tests.metal.addresses import complaints, libclang  # noqa: E402
from tests.metal.checks import check_attend, check_head, check_matmul, check_pack  # noqa: E402
from tests.metal.simulator import MetalSource, generate_launch  # noqa: E402
from tests.metal.test_kernels import ATTEND, HEAD, MATMUL, PACK  # noqa: E402

pytestmark = [
    pytest.mark.skipif(libclang() is None, reason="the package libclang is not installed"),
    pytest.mark.skipif(mx.metal.is_available(), reason="Metal's own compiler reads the kernels here"),
]


@pytest.fixture(scope="module")
def launches() -> list[Launch]:
    """Every launch of the value tests, without running it."""
    seen: list[Launch] = []

    def record(launch: Launch) -> list[Any]:
        seen.append(launch)
        return [mx.zeros(shape, dtype) for shape, dtype in zip(launch.output_shapes, launch.output_dtypes, strict=True)]

    for case in ATTEND:
        with contextlib.suppress(AssertionError):
            check_attend(case, record, starts=case.starts[-1:])
    for pack in PACK:
        with contextlib.suppress(AssertionError):
            check_pack(pack, record)
    for head in HEAD:
        with contextlib.suppress(AssertionError):
            check_head(head, record)
    for product in MATMUL:
        with contextlib.suppress(AssertionError):
            check_matmul(product, record)
    return seen


@pytest.mark.parametrize("kernel", sorted(SIGNATURES))
def test_clang_accepts_every_variant(kernel: str, launches: list[Launch]) -> None:
    mine = [launch for launch in launches if launch.kernel == kernel]
    assert mine
    for launch in mine:
        assert complaints(generate_launch(launch)) == [], str(launch.template)


@pytest.mark.parametrize(
    "text",
    [
        "void f(const device float* x) { float* y = x; }",
        "void f(const device float* x) { threadgroup float* y = x; }",
        "void f(const constant float* x) { const device float* y = x; }",
        "void f(const device float* x) { x[0] = 1.0f; }",
        "void f(const device float* x) { y[0] = x[0]; }",
    ],
)
def test_clang_rejects_a_wrong_address_space(text: str) -> None:
    assert complaints(MetalSource(text, "f"))
