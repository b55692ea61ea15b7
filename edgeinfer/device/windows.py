"""The profile on Windows, with the standard library and psutil."""

from __future__ import annotations

import os
import platform

from edgeinfer.device.bandwidth import bandwidth
from edgeinfer.device.devices import load_devices
from edgeinfer.device.profile import DeviceProfile

__all__ = ["profile"]


def profile() -> DeviceProfile:
    """Memory and cores by psutil. CPU features cannot be read here, so the slow class of the architecture is
    assumed."""
    import psutil

    memory = psutil.virtual_memory()
    chip = platform.processor() or platform.machine()
    arm = platform.machine().lower() in ("arm64", "aarch64")
    n_cores = int(psutil.cpu_count(logical=False) or os.cpu_count() or 1)
    devices = load_devices()
    per_s, source = bandwidth(devices, chip, int(memory.total), n_cores, usable_bytes=int(memory.available))
    return DeviceProfile(
        name=f"Windows {platform.release()}, {chip}",
        os="windows",
        chip=chip,
        cpu_features=frozenset(),
        n_cores=n_cores,
        total_bytes=int(memory.total),
        available_bytes=int(memory.available),
        ceiling_bytes=int(memory.total),
        ceiling_source="all of memory",
        bandwidth_bytes_per_s=per_s,
        bandwidth_source=source,
        accelerators=frozenset(),
        speeds=devices.speeds("arm-cpu" if arm else "x86"),
    )
