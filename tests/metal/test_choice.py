"""Which kernels are chosen, which calls they decline, and the twins alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from edgeinfer.backends.mlx.kernels import KERNELS, Head, Kernels, Matrix, RingLayout, Step, choose_kernels  # noqa: E402
from edgeinfer.backends.mlx.kernels import launch as launching  # noqa: E402
from edgeinfer.backends.mlx.kernels.attend import attend_kernel  # noqa: E402
from edgeinfer.backends.mlx.kernels.head import head_top1_kernel  # noqa: E402
from edgeinfer.backends.mlx.kernels.launch import Launch  # noqa: E402
from edgeinfer.backends.mlx.kernels.matmul import rows_matmul_kernel, rows_matmul_twin  # noqa: E402
from edgeinfer.backends.mlx.kernels.pack import pack_rows_kernel  # noqa: E402
from edgeinfer.backends.mlx.kernels.trial import quicker  # noqa: E402
from edgeinfer.errors import UsageError  # noqa: E402
from tests.metal.checks import POLICY, AttendCase, attend_inputs, close, doubles, packed_values  # noqa: E402
from tests.metal.reference import attend  # noqa: E402


def never(launch: Launch) -> list[Any]:
    raise AssertionError(f"launched {launch.kernel}")


def on(monkeypatch: pytest.MonkeyPatch, available: bool) -> None:
    monkeypatch.setattr(mx.metal, "is_available", lambda: available)


@pytest.mark.parametrize(
    ("wish", "metal", "names"),
    [
        ("auto", False, ()),
        ("auto", True, KERNELS),
        ("off", True, ()),
        ("attend", True, ("attend",)),
        ("attend, head_top1", True, ("attend", "head_top1")),
    ],
)
def test_which_kernels_are_used_for_each_setting(
    wish: str, metal: bool, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, metal)
    monkeypatch.setattr("edgeinfer.backends.mlx.kernels.failing", lambda names, launch: {})
    assert choose_kernels({"EDGEINFER_KERNELS": wish}).names == frozenset(names)


def test_an_unknown_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, True)
    with pytest.raises(UsageError, match="names no kernel: fast"):
        choose_kernels({"EDGEINFER_KERNELS": "attend,fast"})


def test_a_kernel_asked_for_without_metal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, False)
    with pytest.raises(UsageError, match="needs Metal"):
        choose_kernels({"EDGEINFER_KERNELS": "attend"})


def test_a_kernel_that_fails_on_this_gpu_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first start on a GPU compares each kernel with its twin; one that does not compile or differs is not used."""
    on(monkeypatch, True)

    def broken(launch: Launch) -> list[Any]:
        if launch.kernel == "pack_rows":
            raise RuntimeError("Unable to build metal library from source")
        return [mx.zeros(shape, dtype) for shape, dtype in zip(launch.output_shapes, launch.output_dtypes, strict=True)]

    chosen = choose_kernels({}, launch=broken)
    assert chosen.names == frozenset()
    assert "Unable to build" in chosen.failed["pack_rows"]
    assert "differs from its twin" in chosen.failed["attend"]


def test_attend_declines_what_it_cannot_serve() -> None:
    q, ring, _, layout, step = attend_inputs(AttendCase(64, 8, mx.float32), 10)
    nine = mx.zeros((1, 4, 9, 64))
    assert attend_kernel(nine, ring, layout, Step(10, 9, POLICY, POLICY), 1.0, never) is None
    assert attend_kernel(mx.concatenate([q, q]), ring, layout, step, 1.0, never) is None
    assert attend_kernel(mx.zeros((1, 4, 1, 72)), ring, layout, step, 1.0, never) is None
    assert attend_kernel(q, ring[:, :, :-1], layout, step, 1.0, never) is None


def test_pack_declines_16_bits() -> None:
    k = mx.zeros((1, 2, 1, 64), mx.float16)
    assert pack_rows_kernel(k, k, RingLayout(64, 16, mx.float16), never) is None


def test_head_declines_what_it_cannot_serve() -> None:
    x = mx.zeros((1, 128))
    codes, scales, biases = mx.quantize(mx.zeros((96, 128)), 64, 3)
    assert head_top1_kernel(x, Head(codes, 3, scales, biases), never) is None
    assert head_top1_kernel(x, Head(mx.zeros((96, 128)), 32), never) is None
    assert head_top1_kernel(mx.zeros((1, 16384)), Head(mx.zeros((96, 16384), mx.float16), 16), never) is None


def a_matrix(bits: int = 4, group: int = 64) -> Matrix:
    codes, scales, biases = mx.quantize(mx.random.normal((48, 256), key=mx.random.key(3)), group, bits)
    return Matrix(codes, scales, biases, bits, group)


def test_products_decline_what_they_cannot_serve() -> None:
    for n_rows in (1, 9):
        assert rows_matmul_kernel(mx.zeros((n_rows, 256)), a_matrix(), never) is None
    assert rows_matmul_kernel(mx.zeros((2, 256)), a_matrix(bits=6), never) is None
    assert rows_matmul_kernel(mx.zeros((2, 128)), a_matrix(), never) is None
    assert rows_matmul_kernel(mx.zeros((2, 256), mx.int32), a_matrix(), never) is None


@pytest.mark.parametrize("wins", [True, False])
def test_a_product_takes_the_quicker_way_by_one_trial_for_each_shape(wins: bool) -> None:
    launched: list[str] = []
    trials: list[object] = []

    def launch(launch: Launch) -> list[Any]:
        launched.append(launch.kernel)
        return [mx.ones(shape, dtype) for shape, dtype in zip(launch.output_shapes, launch.output_dtypes, strict=True)]

    def trial(kernel: object, stock: object) -> bool:
        trials.append((kernel, stock))
        return wins

    kernels, matrix = Kernels(frozenset({"rows_matmul"}), launch, is_quicker=trial), a_matrix()
    for n_rows in (1, 2, 2, 3, 9):
        x = mx.random.normal((n_rows, 256), key=mx.random.key(n_rows))
        y = kernels.rows_matmul(x, matrix)
        by_kernel = wins and n_rows in (2, 3)
        expected = mx.ones((n_rows, 48)) if by_kernel else rows_matmul_twin(x, matrix)
        assert mx.array_equal(y, expected).item()
    assert len(trials) == 2
    assert len(launched) == 2 + 3 * wins  # a launch says that the kernel serves the shape


@pytest.mark.parametrize(("kernel_s", "wins"), [(0.5, True), (0.97, False), (2.0, False)])
def test_a_kernel_wins_where_it_is_clearly_quicker(kernel_s: float, wins: bool) -> None:
    now = 0.0

    def taking(seconds: float) -> Any:
        def call() -> Any:
            nonlocal now
            now += seconds
            return mx.zeros(1)

        return call

    assert quicker(taking(kernel_s), taking(1.0), clock=lambda: now) is wins


@pytest.mark.parametrize("bits", [16, 8, 4])
@pytest.mark.parametrize("head_dim", [64, 80])
def test_the_twins_serve_every_call(bits: int, head_dim: int) -> None:
    """Without kernels: 12 rows, more than a kernel takes, against float64."""
    case = AttendCase(head_dim, bits, mx.float16, n_rows=12)  # type: ignore[arg-type]
    q, ring, rows, layout, step = attend_inputs(case, 100)
    ring = mx.where(mx.isnan(ring), 0, ring) if bits == 16 else ring
    got = Kernels().attend(q, ring, layout, step, 0.125)
    expected = attend(doubles(q)[0], *packed_values(rows, layout), 100, POLICY, sliding=0, scale=0.125)
    close(got[0], expected, 3e-3, f"twin {case}")


def test_packed_rows_have_the_documented_layout() -> None:
    """Codes 0..15 of values 0..15 twice, scale 1, bias 0, written out."""
    k = mx.array([float(i % 16) for i in range(64)]).reshape(1, 1, 1, 64)
    rows = Kernels().pack_rows(k, k + 1, RingLayout(64, 4, mx.float32))
    one, zero = 0x3C00, 0x0000
    words = [0x76543210, 0xFEDCBA98] * 4
    expected = [*words, zero << 16 | one, *words, one << 16 | one]
    assert np.array(rows).ravel().tolist() == expected


def test_the_sources_are_found_in_a_checkout() -> None:
    assert {path.stem for path in launching.source_dir().glob("*.metal")} == set(launching.SIGNATURES)
