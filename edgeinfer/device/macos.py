"""macOS: sysctl by name, Metal's working set, memory that is free now."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from edgeinfer.device import metal
from edgeinfer.device.bandwidth import bandwidth
from edgeinfer.device.devices import load_devices
from edgeinfer.device.metal import MetalMemory
from edgeinfer.device.profile import DeviceProfile

__all__ = ["Sysctl", "describe", "fast_cores", "profile"]

Sysctl = Callable[[str], "int | str | None"]
"""The value of a sysctl name; None where this machine has no such name."""

_FEATURES = {
    "FEAT_DotProd": "dotprod",
    "FEAT_I8MM": "i8mm",
    "FEAT_BF16": "bf16",
    "FEAT_SME": "sme",
    "FEAT_SME2": "sme2",
}


def profile() -> DeviceProfile:
    import psutil

    return describe(sysctl, metal.ask(), int(psutil.virtual_memory().available))


def describe(read: Sysctl, gpu: MetalMemory | None, available_bytes: int) -> DeviceProfile:
    """The profile from what the system answered."""
    chip, total = str(read("machdep.cpu.brand_string") or "unknown"), _number(read, "hw.memsize")
    n_cores = fast_cores(read)
    wired_limit = _number(read, "iogpu.wired_limit_mb")
    devices = load_devices()
    per_s, bandwidth_source = bandwidth(devices, chip, total, n_cores, usable_bytes=available_bytes)
    if gpu is None:
        ceiling, source = total, "all of memory: Metal found no device"
    elif wired_limit:
        ceiling, source = gpu.working_set_bytes, f"Metal's working set; iogpu.wired_limit_mb is set to {wired_limit}"
    else:
        ceiling, source = gpu.working_set_bytes, "Metal's recommendedMaxWorkingSetSize"
    features = {word for name, word in _FEATURES.items() if _number(read, f"hw.optional.arm.{name}")}
    features |= {"avx2"} if _number(read, "hw.optional.avx2_0") else set()
    known = devices.chip_titled(chip, total)
    speed = known.speed if known else "apple-gpu" if gpu and chip.startswith("Apple") else "x86"
    return DeviceProfile(
        name=f"{read('hw.model') or 'Mac'}, {chip}, {round(total / 2**30)} GB",
        os="macos",
        chip=chip,
        cpu_features=frozenset(features),
        n_cores=n_cores,
        total_bytes=total,
        available_bytes=available_bytes,
        ceiling_bytes=ceiling,
        ceiling_source=source,
        bandwidth_bytes_per_s=per_s,
        bandwidth_source=bandwidth_source,
        accelerators=frozenset({"metal"}) if gpu else frozenset(),
        speeds=devices.speeds(speed),
    )


def fast_cores(read: Sysctl) -> int:
    """Physical cores of every performance level but the efficiency one: M5 Pro has "Super" and "Performance" cores."""
    total = 0
    for level in range(_number(read, "hw.nperflevels")):
        if str(read(f"hw.perflevel{level}.name")).lower() != "efficiency":
            total += _number(read, f"hw.perflevel{level}.physicalcpu")
    return max(1, total or _number(read, "hw.physicalcpu"))


def _number(read: Sysctl, name: str) -> int:
    value = read(name)
    return value if isinstance(value, int) else 0


def sysctl(name: str) -> int | str | None:
    """One value by `sysctlbyname(3)`: 4 or 8 bytes are a number, anything else a text."""
    libc = ctypes.CDLL(None)
    size = ctypes.c_size_t(0)
    if libc.sysctlbyname(name.encode(), None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0 or size.value == 0:
        return None
    buffer = ctypes.create_string_buffer(size.value)
    if libc.sysctlbyname(name.encode(), buffer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return None
    raw = buffer.raw[: size.value]
    if name.endswith((".name", "brand_string", "hw.model", "hw.machine")):
        return raw.split(b"\0")[0].decode("utf-8", "replace")
    return int.from_bytes(raw, "little") if size.value in (4, 8) else None
