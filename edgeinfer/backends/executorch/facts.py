"""What is known of ExecuTorch without importing it."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from edgeinfer.backends.executorch.exports import BUNDLE_BACKEND, BUNDLES, Bundles
from edgeinfer.catalog.entry import TaughtDraft
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.formats.manifest import KV_TYPES
from edgeinfer.plan.facts import (
    TOKENIZER_BYTES_PER_ENTRY,
    Capabilities,
    Scaling,
    forward_bytes,
    installed_version,
    kv_row_bytes,
    tapped_bytes,
)
from edgeinfer.shape import ModelShape
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy

__all__ = ["FACTS", "ExecutorchFacts", "kv_bytes_per_position"]

_TIERS: Final = frozenset({"8da4w", "8da8w", "fp32"})
_PREFILL_ROWS: Final = 128  # MAX_TOKENS and MAX_ROWS of export/program.py
_MAX_ROWS: Final = 16
_SCALE_BYTES: Final = 4  # of 8-bit K and V, for each head and position
_ENGINE_BYTES: Final = 40_000_000
_INTERPRETER_BYTES: Final = 29_000_000  # Python with its imports: docs/phone-memory.md


@dataclass(frozen=True, slots=True)
class ExecutorchFacts:
    """See plan.facts.BackendFacts."""

    name: str = BUNDLE_BACKEND
    package: str = "edgeinfer.backends.executorch"
    on_request_only: bool = False
    takes_threads: bool = True
    rows_cheap_to_read: bool = True
    prefill_rows: int = _PREFILL_ROWS
    max_rows: int = _MAX_ROWS
    exporting: Bundles = BUNDLES

    def capabilities(self, device: DeviceProfile) -> Capabilities:
        """XNNPACK runs on every processor."""
        interpreter_bytes = 0 if device.is_phone else _INTERPRETER_BYTES
        return Capabilities(_TIERS, KV_TYPES, early_exit=True, interpreter_bytes=interpreter_bytes)

    def preferred_kv_type(self, device: DeviceProfile, shape: ModelShape) -> KvType:  # noqa: ARG002
        return "f32"

    def kv_bytes(self, shape: ModelShape, policy: WindowPolicy, kv_type: KvType) -> int:
        return policy.slots * kv_bytes_per_position(shape, kv_type)

    def workspace_bytes(self, shape: ModelShape, *, early_exit: bool) -> int:  # noqa: ARG002  # the same program
        base = _ENGINE_BYTES + shape.n_vocab * TOKENIZER_BYTES_PER_ENTRY
        return base + forward_bytes(shape, _PREFILL_ROWS, _MAX_ROWS)

    def exact_rows(self, device: DeviceProfile, tensor_types: Set[str], kv_type: KvType) -> int | None:  # noqa: ARG002
        return _MAX_ROWS  # 8da4w: on x86 and three emulated Arm cores; a bundle's manifest says what was measured

    def taught_bytes(
        self, draft: TaughtDraft, shape: ModelShape, policy: WindowPolicy, kv_type: KvType, n_conversations: int
    ) -> int | None:
        """A bundle holds the weights of its own draft, and runs no other one."""
        if draft.file:
            return None
        return n_conversations * (self.kv_bytes(shape, policy, kv_type) // shape.n_layers + tapped_bytes(draft, shape))

    def is_measured_on(self, device: DeviceProfile) -> bool:  # noqa: ARG002
        return False

    def engine_version(self) -> str:
        return installed_version("executorch")

    def reads_gguf(self, architecture: str, *, n_files: int = 1) -> bool:  # noqa: ARG002  # `edgeinfer export` does
        return False

    def reads_folder(self, architecture: str) -> bool:  # noqa: ARG002
        return False


def kv_bytes_per_position(shape: ModelShape, kv_type: KvType) -> int:
    """K and V of all layers for one position of one conversation."""
    return sum(
        group.n_layers * group.n_kv_heads * kv_row_bytes(kv_type, group.head_dim, Scaling(group.head_dim, _SCALE_BYTES))
        for group in shape.kv
    )


FACTS: Final = ExecutorchFacts()
