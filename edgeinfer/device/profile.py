"""What the planner knows of a device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Os = Literal["macos", "ios", "ipados", "android", "linux", "windows"]


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """How a kind of device decodes with a backend.

    Seconds a token = bytes / (efficiency x bandwidth) + layers x layer_s.

    `core_bytes_per_s`, where above 0, is what one core can unpack and multiply: few cores do not fill the bus.
    """

    backend: str
    efficiency: float
    layer_s: float
    core_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """A machine, found (`detect()`) or named (`devices.toml`). Bytes are whole bytes; bandwidth in bytes per second."""

    name: str
    os: Os
    chip: str
    cpu_features: frozenset[str]
    n_cores: int  # cores that this process may use; the fast ones where the chip has two kinds
    total_bytes: int
    available_bytes: int  # free now; for a named device, total less what its OS takes
    ceiling_bytes: int  # the most that one process may take
    ceiling_source: str
    bandwidth_bytes_per_s: int
    bandwidth_source: str
    accelerators: frozenset[str]  # "metal", "cuda"
    named: bool = False  # True: planning for another device
    speeds: tuple[EngineSpeed, ...] = ()

    @property
    def has_avx2(self) -> bool:
        return "avx2" in self.cpu_features

    @property
    def has_metal(self) -> bool:
        return "metal" in self.accelerators
