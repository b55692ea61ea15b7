"""What the planner knows about a device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgeinfer.device.row_times import RowTimes

Os = Literal["macos", "ios", "ipados", "android", "linux", "windows"]


@dataclass(frozen=True, slots=True)
class EngineSpeed:
    """How a kind of device decodes with a backend.

    Seconds a token = the sum over tensor types of bytes / rate, + the time of the layers. A rate is efficiency x
    bandwidth, or what the cores can unpack and multiply of that type, whichever is less: few cores do not fill the bus.
    """

    backend: str
    efficiency: float
    layer_s: float
    core_bytes_per_s: float = 0.0  # of one core; 0: not a limit
    core_rates: Mapping[str, float] = field(default_factory=dict)  # the same by tensor type, where it was measured
    head_rates: Mapping[str, float] = field(default_factory=dict)  # of the head, whose rows are many and short
    further_core: float = 1.0  # what each core adds to the first: threads wait for each other after every matrix
    layer_share: float = 1.0  # of `layer_s`, with several threads

    def layers_s(self, n_layers: int, n_cores: int) -> float:
        """Seconds a token takes in addition to its weights."""
        return n_layers * self.layer_s * (self.layer_share if n_cores > 1 else 1.0)

    def bytes_per_s(self, tensor_type: str, bandwidth: float, n_cores: int, *, of_head: bool = False) -> float:
        """Bytes of weights of this type that are read and multiplied per second."""
        from_memory = self.efficiency * bandwidth
        of_core = self.core_rates.get(tensor_type, self.core_bytes_per_s)
        if of_head:
            of_core = self.head_rates.get(tensor_type, of_core)
        of_cores = of_core * (1 + self.further_core * (n_cores - 1))
        return min(from_memory, of_cores) if of_core else from_memory


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
    slug: str = ""  # its name in `devices.toml`; "" for a machine that was found
    speeds: tuple[EngineSpeed, ...] = ()
    reached: Mapping[str, float] = field(default_factory=dict)  # tokens per second of plain decoding, by `Artifact.key`
    row_times: Mapping[str, RowTimes] = field(default_factory=dict)  # by `Artifact.key` and the file of a taught draft

    @property
    def machine(self) -> str:
        """A key for this kind of machine in records that are kept between runs, because a home folder may be shared by
        several."""
        return f"{self.chip}, {self.n_cores} cores, {self.total_bytes >> 30} GiB"

    @property
    def is_phone(self) -> bool:
        """A phone or a tablet: an app runs the model there, not this program."""
        return self.os in ("ios", "ipados", "android")

    @property
    def has_avx2(self) -> bool:
        return "avx2" in self.cpu_features

    @property
    def has_metal(self) -> bool:
        return "metal" in self.accelerators
