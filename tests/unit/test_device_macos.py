"""macOS from recorded answers of sysctl and Metal."""

from collections.abc import Mapping

import pytest

from edgeinfer.device.macos import Sysctl, describe, fast_cores
from edgeinfer.device.metal import MetalMemory

M2: Mapping[str, int | str] = {
    "machdep.cpu.brand_string": "Apple M2",
    "hw.model": "Mac14,2",
    "hw.memsize": 16 << 30,
    "hw.nperflevels": 2,
    "hw.perflevel0.name": "Performance",
    "hw.perflevel0.physicalcpu": 4,
    "hw.perflevel1.name": "Efficiency",
    "hw.perflevel1.physicalcpu": 4,
    "hw.optional.arm.FEAT_DotProd": 1,
    "hw.optional.arm.FEAT_I8MM": 1,
    "iogpu.wired_limit_mb": 0,
}


def answers(values: Mapping[str, int | str]) -> Sysctl:
    return values.get


def test_the_profile_of_a_macbook_air_m2() -> None:
    found = describe(answers(M2), MetalMemory(12_713_115_648, 9_534_832_640), 9_000_000_000)
    assert (found.n_cores, found.total_bytes, found.available_bytes) == (4, 16 << 30, 9_000_000_000)
    assert found.ceiling_bytes == 12_713_115_648
    assert found.ceiling_source == "Metal's recommendedMaxWorkingSetSize"
    assert found.bandwidth_bytes_per_s == 100_000_000_000 and found.bandwidth_source.startswith("known chip")
    assert found.cpu_features == {"dotprod", "i8mm"} and found.accelerators == {"metal"}
    assert {speed.backend for speed in found.speeds} == {"gguf", "mlx", "reference"}


def test_a_wired_limit_is_read_and_reported() -> None:
    values = {**M2, "iogpu.wired_limit_mb": 14000}
    found = describe(answers(values), MetalMemory(14000 << 20, 0), 9_000_000_000)
    assert found.ceiling_bytes == 14000 << 20
    assert found.ceiling_source == "Metal's working set; iogpu.wired_limit_mb is set to 14000"


def test_without_metal_all_of_memory_is_the_ceiling() -> None:
    found = describe(answers(M2), None, 9_000_000_000)
    assert found.ceiling_bytes == 16 << 30 and not found.accelerators


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([("Performance", 4), ("Efficiency", 6)], 4),
        ([("Super", 5), ("Performance", 10)], 15),  # M5 Pro: no efficiency cores
        ([("Super", 2), ("Performance", 4), ("Efficiency", 4)], 6),
        ([], 8),  # an Intel Mac has no levels
    ],
)
def test_fast_cores_are_found_by_the_name_of_their_level(levels: list[tuple[str, int]], expected: int) -> None:
    values: dict[str, int | str] = {"hw.nperflevels": len(levels), "hw.physicalcpu": 8}
    for n, (name, count) in enumerate(levels):
        values |= {f"hw.perflevel{n}.name": name, f"hw.perflevel{n}.physicalcpu": count}
    if not levels:
        del values["hw.nperflevels"]
    assert fast_cores(answers(values)) == expected


def test_chips_with_one_name_and_two_bandwidths_differ_by_memory() -> None:
    for gib, gb_per_s in ((36, 410), (64, 546)):
        values = {**M2, "machdep.cpu.brand_string": "Apple M4 Max", "hw.memsize": gib << 30}
        assert describe(answers(values), None, 1).bandwidth_bytes_per_s == gb_per_s * 10**9
