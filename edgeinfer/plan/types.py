"""The plan and what it is made from. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from edgeinfer.catalog.entry import Artifact, ModelEntry
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.types import KvType, SpeculationMode
from edgeinfer.window import WindowPolicy

Prefer = Literal["balanced", "speed", "quality", "context"]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do on this device, as its probe found it."""

    backend: str
    tiers: frozenset[str]
    kv_types: tuple[KvType, ...]  # the backend's first choice first
    early_exit: bool
    versions: dict[str, str] = field(default_factory=dict)
    unavailable: str = ""  # why it cannot run; "" when it can
    hint: str = ""  # what installs it


@dataclass(frozen=True, slots=True)
class Request:
    """What the person asked for. None and "" mean: choose."""

    model: str = ""
    tier: str = ""
    backend: str = ""
    context: int | None = None  # sink + window, in tokens
    sink: int | None = None  # tokens; None: 128
    kv_type: KvType | None = None
    prefer: Prefer = "balanced"
    min_tokens_per_s: float = 8.0
    speculation: SpeculationMode = "auto"
    draft_model: str = ""
    draft_tier: str = ""
    force: bool = False


@dataclass(frozen=True, slots=True)
class Estimate:
    weight_bytes: int
    kv_bytes: int
    workspace_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes


@dataclass(frozen=True, slots=True)
class SpeculationPlan:
    """Which drafters the decoder may try. The controller decides between them, and none, as it runs."""

    mode: SpeculationMode
    drafters: tuple[str, ...]  # names; empty: none
    exit_layer: int | None = None
    max_rows: int = 1  # rows of one verify, at most
    exact: bool = True  # whether so many rows of this tier equal plain ones bit for bit
    note: str = ""  # what it expects and why, for people


@dataclass(frozen=True, slots=True)
class Rejection:
    model: str
    tier: str
    backend: str
    reason: str
    over_bytes: int = 0  # how far over the budget; 0 when memory is not the reason
    rank: int = 0  # of the model


@dataclass(frozen=True, slots=True)
class Plan:
    device: DeviceProfile
    budget_bytes: int
    model: ModelEntry
    artifact: Artifact
    backend: str
    window: WindowPolicy
    kv_type: KvType
    n_threads: int  # 0: the backend measures how many are fastest here
    speculation: SpeculationPlan
    estimate: Estimate
    expected_tokens_per_s: float
    reasons: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    forced: bool = False
