"""Every kernel against float64 NumPy: on Metal where there is a GPU, in the simulator elsewhere."""

from __future__ import annotations

from functools import partial

import pytest

mx = pytest.importorskip("mlx.core", reason="MLX is not installed")

from edgeinfer.backends.mlx.kernels.attend import LaunchShape  # noqa: E402
from edgeinfer.backends.mlx.kernels.launch import Launcher  # noqa: E402
from edgeinfer.window import WindowPolicy  # noqa: E402
from tests.metal.checks import (  # noqa: E402
    WIDE_POLICY,
    AttendCase,
    HeadCase,
    MatmulCase,
    PackCase,
    check_attend,
    check_head,
    check_matmul,
    check_pack,
)
from tests.metal.conftest import FULL  # noqa: E402
from tests.metal.simulator import compiler  # noqa: E402

F32, F16, BF16 = mx.float32, mx.float16, mx.bfloat16
SHORT = WindowPolicy(window=64, sink=0, block=16, limit=4096)  # what a layer with a sliding window of 24 stores

ATTEND = [
    AttendCase(64, 16, F16, group=4),
    AttendCase(64, 8, F16, group=4, n_rows=3),
    AttendCase(64, 4, F32, group=4, logits=True),
    AttendCase(80, 16, BF16, group=1, n_rows=2),
    AttendCase(80, 8, F16, group=1),
    AttendCase(80, 4, F32, group=1, n_rows=8),
    AttendCase(96, 16, F16, group=1, n_rows=5),
    AttendCase(96, 8, F32, group=1, shape=LaunchShape(2, 3)),
    AttendCase(96, 4, F16, group=3),
    AttendCase(128, 16, BF16, group=4, shape=LaunchShape(2, 2)),
    AttendCase(128, 8, BF16, group=5, n_rows=4),
    AttendCase(128, 4, F32, group=7, shape=LaunchShape(8, 3), logits=True),
    AttendCase(256, 16, F16, n_kv_heads=1, group=2, sliding=24, stored=SHORT),
    AttendCase(256, 8, F32, n_kv_heads=1, group=2, n_rows=6, sliding=24, stored=SHORT),
    AttendCase(256, 4, BF16, n_kv_heads=1, group=8),
    AttendCase(512, 16, BF16, n_kv_heads=1, group=2),
    AttendCase(512, 8, F32, n_kv_heads=1, group=2, n_rows=2, shape=LaunchShape(4, 2)),
    AttendCase(512, 4, F16, n_kv_heads=1, group=4),
    AttendCase(64, 32, F32, group=2, n_rows=2),
    AttendCase(64, 16, F16, group=2, n_rows=3, first=6, starts=(7, 133)),
    AttendCase(128, 8, F16, n_kv_heads=1, group=4, starts=(400, 1800), policy=WIDE_POLICY, shape=LaunchShape(4, 2)),
]
PACK = [PackCase(64, 8, F16), PackCase(80, 4, F32), PackCase(96, 8, BF16), PackCase(256, 4, F16), PackCase(128, 8, F32)]
HEAD = [
    HeadCase(4, F16),
    HeadCase(6, F32, n_rows=3, softcap=30.0),
    HeadCase(8, BF16, n_ids=517, n_rows=8, norm=False, max_parts=5),
    HeadCase(16, F16, width=160, n_rows=4),
    HeadCase(4, F32, n_ids=1100, norm=False, ties=(1030, 6, 5), n_rows=1, group=32),
    HeadCase(4, F16, norm=False, ties=(69, 37, 5), n_rows=1, max_parts=3),
]
MATMUL = [
    MatmulCase(4, F16, 2),
    MatmulCase(4, F32, 5, group=32),
    MatmulCase(4, BF16, 8, width=1152, group=128),
    MatmulCase(8, F16, 3, group=128),
    MatmulCase(8, F32, 7, width=96, group=32),
    MatmulCase(8, BF16, 4, n_outs=16),
]


@pytest.fixture(scope="module", autouse=True)
def compile_ahead(request: pytest.FixtureRequest) -> None:
    if mx.metal.is_available() or compiler() is None:
        return
    start = request.getfixturevalue("ahead")
    for case in ATTEND:
        start(partial(check_attend, case))
    for packed in PACK:
        start(partial(check_pack, packed))
    for head in HEAD:
        start(partial(check_head, head))
    for product in MATMUL:
        start(partial(check_matmul, product))


@pytest.mark.parametrize("case", ATTEND, ids=str)
def test_attention_equals_its_twin(case: AttendCase, launch: Launcher) -> None:
    check_attend(case, launch)


@pytest.mark.parametrize("case", PACK, ids=str)
def test_packing_equals_its_twin(case: PackCase, launch: Launcher) -> None:
    check_pack(case, launch)


@pytest.mark.parametrize("case", HEAD, ids=str)
def test_the_greedy_head_equals_its_twin(case: HeadCase, launch: Launcher) -> None:
    check_head(case, launch)


@pytest.mark.parametrize("case", MATMUL, ids=str)
def test_a_product_of_a_few_rows_equals_its_twin(case: MatmulCase, launch: Launcher) -> None:
    check_matmul(case, launch)


@pytest.mark.skipif(not FULL, reason="the sweep runs with `EDGEINFER_METAL_FULL=1 pytest tests/metal`")
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=["float32", "float16", "bfloat16"])
def test_products_for_every_number_of_rows(bits: int, group: int, dtype: object, launch: Launcher) -> None:
    for n_rows in range(2, 9):
        check_matmul(MatmulCase(bits, dtype, n_rows, group=group), launch)


@pytest.mark.skipif(not FULL, reason="the sweep runs with `EDGEINFER_METAL_FULL=1 pytest tests/metal`")
@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256, 512])
@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=["float32", "float16", "bfloat16"])
def test_attention_equals_its_twin_for_every_width(head_dim: int, bits: int, dtype: object, launch: Launcher) -> None:
    if (bits == 16) == (dtype is F32):
        pytest.skip("a 16-bit ring holds a 16-bit dtype")
    for n_rows, group in ((1, 4), (2, 7), (4, 1), (7, 3), (8, 2)):
        case = AttendCase(head_dim, bits, dtype, group=group, n_rows=n_rows, seed=n_rows)  # type: ignore[arg-type]
        check_attend(case, launch, starts=(0, 17, 56, 72, 128, 1000))
