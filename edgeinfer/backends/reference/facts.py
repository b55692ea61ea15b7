"""What the program may know of the reference without importing NumPy."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace
from typing import Final

from edgeinfer.catalog.entry import TaughtDraft
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.plan.facts import (
    NOT_ON_PHONES,
    ON_PHONES_HINT,
    TOKENIZER_BYTES_PER_ENTRY,
    Capabilities,
    Scaling,
    forward_bytes,
    installed_version,
    kv_row_bytes,
    tapped_bytes,
)
from edgeinfer.shape import ModelShape
from edgeinfer.types import KV_CHOICES, KvType
from edgeinfer.window import WindowPolicy

__all__ = ["FACTS", "ReferenceFacts"]

_TIERS: Final = frozenset({"F32", "F16", "BF16", "Q8_0", "Q4_0"})
_ARCHITECTURES: Final = frozenset({"llama", "qwen3"})
_PREFILL_ROWS: Final = 256
_MAX_ROWS: Final = 16
_BLOCK: Final = Scaling(n_values=32, n_bytes=2)
_ENGINE_BYTES: Final = 60_000_000  # docs/memory.md


@dataclass(frozen=True, slots=True)
class ReferenceFacts:
    """See plan.facts.BackendFacts."""

    name: str = "reference"
    package: str = "edgeinfer.backends.reference"
    on_request_only: bool = True
    takes_threads: bool = False
    rows_cheap_to_read: bool = True
    prefill_rows: int = _PREFILL_ROWS
    max_rows: int = _MAX_ROWS
    exporting: None = None

    def capabilities(self, device: DeviceProfile) -> Capabilities:
        unavailable, hint = (NOT_ON_PHONES, ON_PHONES_HINT) if device.is_phone else ("", "")
        return Capabilities(_TIERS, KV_CHOICES, early_exit=True, unavailable=unavailable, hint=hint)

    def preferred_kv_type(self, device: DeviceProfile, shape: ModelShape) -> KvType:  # noqa: ARG002
        return "f32"

    def kv_bytes(self, shape: ModelShape, policy: WindowPolicy, kv_type: KvType) -> int:
        rows = (group.n_layers * group.n_kv_heads * kv_row_bytes(kv_type, group.head_dim, _BLOCK) for group in shape.kv)
        return policy.slots * sum(rows)

    def workspace_bytes(self, shape: ModelShape, *, early_exit: bool) -> int:  # noqa: ARG002  # no memory of its own
        base = _ENGINE_BYTES + shape.n_vocab * TOKENIZER_BYTES_PER_ENTRY
        return base + forward_bytes(shape, _PREFILL_ROWS, _MAX_ROWS)

    def exact_rows(self, device: DeviceProfile, tensor_types: Set[str], kv_type: KvType) -> int | None:  # noqa: ARG002
        return _MAX_ROWS

    def taught_bytes(
        self, draft: TaughtDraft, shape: ModelShape, policy: WindowPolicy, kv_type: KvType, n_conversations: int
    ) -> int | None:
        """Weights in float32, and the draft's own rows of the head."""
        if shape.architecture not in _ARCHITECTURES:
            return None
        layer = replace(shape, kv=(replace(shape.kv[0], n_layers=1 + draft.exit_layer),))
        weights = 2 * draft.n_bytes + 4 * draft.n_ranked * shape.hidden
        return weights + n_conversations * (self.kv_bytes(layer, policy, kv_type) + tapped_bytes(draft, shape))

    def is_measured_on(self, device: DeviceProfile) -> bool:  # noqa: ARG002
        return False

    def engine_version(self) -> str:
        return installed_version("edgeinfer")

    def reads_gguf(self, architecture: str, *, n_files: int = 1) -> bool:
        return n_files == 1 and architecture in _ARCHITECTURES

    def reads_folder(self, architecture: str) -> bool:  # noqa: ARG002
        return False


FACTS: Final = ReferenceFacts()
