"""Estimates of memory, with every sum written out."""

import pytest

from edgeinfer.backends import FACTS, facts_of
from edgeinfer.catalog import LayerKv, ModelShape, load_catalog
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy
from tests.unit.plan_things import with_shape

POLICY = WindowPolicy(window=3968, sink=128, block=496, limit=131072)  # 4096 slots


def kv_bytes(shape: ModelShape, backend: str, policy: WindowPolicy, kv_type: KvType) -> int:
    return facts_of(backend).kv_bytes(shape, policy, kv_type)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("demo", 4096 * 12 * 2 * 4 * 64 * 2),
        ("smollm2-1.7b", 805_306_368),
        ("llama-3.2-1b", 134_217_728),
        ("llama-3.3-70b", 1_342_177_280),
        ("qwen3-4b", 603_979_776),
        # 15 layers of E2B have K/V: 3 see everything, 6144 bytes a token; 12 see 512 tokens and hold 768 cells
        ("gemma-4-e2b", 6144 * 4096 + 12288 * 768),
        ("gemma-4-31b", 81920 * 4096 + 819200 * 1280),
    ],
)
def test_kv_of_known_models_at_4096(name: str, expected: int) -> None:
    found = load_catalog().find(name)
    assert found is not None
    assert kv_bytes(found.shape, "gguf", POLICY, "f16") == expected


def test_kv_bytes_of_each_type_by_hand() -> None:
    shape = with_shape(kv=(LayerKv(1, 1, 64),))
    # 4096 cells x 64 values x K and V
    assert kv_bytes(shape, "gguf", POLICY, "f16") == 1_048_576
    assert kv_bytes(shape, "gguf", POLICY, "q8_0") == 4096 * 2 * 2 * 34
    assert kv_bytes(shape, "gguf", POLICY, "q8_0/f16") == 4096 * 2 * (34 + 64)
    assert kv_bytes(shape, "gguf", POLICY, "q4_0") == 4096 * 2 * 2 * 18
    assert kv_bytes(shape, "mlx", POLICY, "q8_0") == 4096 * 2 * (64 + 4)
    assert kv_bytes(shape, "reference", POLICY, "f32") == 2_097_152


def test_llama_cpp_rounds_cells_up_and_others_do_not() -> None:
    policy = WindowPolicy(window=1024, sink=4, block=128, limit=2048)  # 1028 slots: 1280 cells
    shape = with_shape(kv=(LayerKv(1, 1, 64),))
    assert kv_bytes(shape, "gguf", policy, "f16") == 1280 * 256
    assert kv_bytes(shape, "mlx", policy, "f16") == 1028 * 256


def test_a_sliding_layer_holds_no_more_than_the_cache() -> None:
    policy = WindowPolicy(window=256, sink=0, block=64, limit=2048)
    shape = with_shape(kv=(LayerKv(1, 1, 64, window=4096),))
    assert kv_bytes(shape, "gguf", policy, "f16") == 256 * 256
    assert kv_bytes(shape, "mlx", policy, "f16") == 256 * 256


def test_the_26b_file_does_not_fit_a_16_gb_machine() -> None:
    """All experts count: 16,947,541,728 bytes, where Metal allows 12,713 MB of 16 GB."""
    from edgeinfer.device import load_devices
    from edgeinfer.plan import Request, make_plan

    device = load_devices().profile("macbook-air-m2-16gb")
    plan = make_plan(device, load_catalog(), FACTS[:2], Request())
    (moe,) = [one for one in plan.rejected if (one.model, one.tier) == ("gemma-4-26b-a4b", "Q4_K_M")]
    assert moe.over_bytes > 16_947_541_728 - 12_713_120_000
    assert plan.model.name != "gemma-4-26b-a4b"
