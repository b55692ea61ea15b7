"""The plan and what it is made from. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeinfer.catalog.entry import Artifact, ModelEntry, TaughtDraft
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.plan.facts import BackendFacts
from edgeinfer.types import KvType, SpeculationMode
from edgeinfer.window import WindowPolicy

Prefer = Literal["balanced", "speed", "quality", "context"]
FileRole = Literal["weights", "draft model", "taught draft"]
RejectionKind = Literal["memory", "speed", "rank", "tier", "backend", "kv", "context", "unavailable"]


@dataclass(frozen=True, slots=True)
class Request:
    """What the user asked for. None and "" leave the choice to the planner."""

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
    draft_file: str = ""  # a taught draft for `model`
    force: bool = False
    conversations: int = 1  # open at once on one model
    threads: int = 0  # of the processor; 0: the backend measures the fastest number
    json_schemas: bool = False  # answers may have to follow a JSON schema, as in a server
    others_bytes: int | None = None  # what other models of the same server take

    @property
    def may_grow(self) -> bool:
        """Whether the window may take memory that is left."""
        return self.context is None and self.others_bytes is None


@dataclass(frozen=True, slots=True)
class Estimate:
    weight_bytes: int
    kv_bytes: int  # of all conversations
    workspace_bytes: int
    draft_bytes: int = 0  # weights and K/V of the draft model, or of the taught draft
    packed_bytes: int = 0  # a second copy of the weights on disk, which is mapped; 0: the engine makes none

    @property
    def total_bytes(self) -> int:
        """Upper bound of resident memory."""
        return self.weight_bytes + self.kv_bytes + self.workspace_bytes + self.draft_bytes

    @property
    def dirty_bytes(self) -> int:
        """Bytes that the system cannot drop: all except weights that are mapped from files."""
        return self.total_bytes - (self.weight_bytes if self.packed_bytes else 0)

    @property
    def disk_bytes(self) -> int:
        return self.weight_bytes + self.packed_bytes


@dataclass(frozen=True, slots=True)
class SpeculationPlan:
    """Which drafters the decoder may try. The controller decides between them, and none, as it runs."""

    mode: SpeculationMode
    drafters: tuple[str, ...]  # names; empty: none
    exit_layer: int | None = None
    max_rows: int = 1  # rows of one verify, at most
    exact: bool = True  # whether `max_rows` rows of this tier equal plain ones bit for bit
    note: str = ""  # what it expects and why, as text for users


@dataclass(frozen=True, slots=True)
class Rejection:
    """Kinds "rank", "tier" and "backend" fit, but something else was better. Other kinds cannot be used."""

    model: str
    tier: str
    backend: str
    kind: RejectionKind
    reason: str  # text for users; no code reads it
    over_bytes: int = 0  # how far over the budget; 0 when memory is not the reason
    rank: int = 0  # of the model


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file (or folder) that the plan opens."""

    role: FileRole
    model: ModelEntry
    artifact: Artifact


@dataclass(frozen=True, slots=True)
class Plan:
    device: DeviceProfile
    budget_bytes: int
    model: ModelEntry
    artifact: Artifact  # of the weights
    facts: BackendFacts  # of the backend
    window: WindowPolicy  # of each conversation
    kv_type: KvType
    n_threads: int  # 0: the backend measures the fastest number here
    speculation: SpeculationPlan
    estimate: Estimate
    expected_tokens_per_s: float  # computed, for a short chat
    min_tokens_per_s: float  # the speed that a choice should reach
    reasons: tuple[str, ...]
    rejected: tuple[Rejection, ...]
    forced: bool = False
    n_conversations: int = 1
    draft: Plan | None = None  # how the draft model is opened
    reached_tokens_per_s: float = 0.0  # speed of plain decoding that this file reached here; 0: it has not run
    taught: TaughtDraft | None = None

    @property
    def backend(self) -> str:
        return self.facts.name

    @property
    def tokens_per_s(self) -> float:
        """The speed that was reached, or if there is none, the expected speed."""
        return self.reached_tokens_per_s or self.expected_tokens_per_s

    @property
    def slow(self) -> bool:
        """Whether it was chosen although it decodes below the minimum speed."""
        return self.tokens_per_s < self.min_tokens_per_s

    @property
    def files(self) -> tuple[PlannedFile, ...]:
        """Every file that is opened."""
        files = [PlannedFile("weights", self.model, self.artifact)]
        if self.draft is not None:
            files.append(PlannedFile("draft model", self.draft.model, self.draft.artifact))
        if self.taught is not None and self.taught.file:
            taught = Artifact(self.backend, self.taught.kind, self.taught.n_bytes, repo="", file=self.taught.file)
            files.append(PlannedFile("taught draft", self.model, taught))
        return tuple(files)
