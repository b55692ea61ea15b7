"""What is known of MLX without importing it."""

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
    round_up,
    tapped_bytes,
)
from edgeinfer.shape import LayerKv, ModelShape
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy

__all__ = ["DRAFTED_ARCHITECTURES", "FACTS", "MlxFacts"]

_TIERS: Final = frozenset(
    {"mlx-4bit-g64", "mlx-6bit-g64", "mlx-8bit-g64", "mlx-bf16", "Q4_0", "Q4_1", "Q8_0", "F16", "F32"}
)
_GGUF_ARCHITECTURES: Final = frozenset({"llama", "qwen3"})
DRAFTED_ARCHITECTURES: Final = frozenset({"llama", "qwen3"})  # of models that a taught draft can run beside
_PREFILL_ROWS: Final = 512  # rows of one forward, and the slack that a layer with its own window keeps
_MAX_ROWS: Final = 16
_PACKED: Final = Scaling(n_values=64, n_bytes=4)  # a packed row of metal_kernels/: a scale and a bias for 64 values
_ENGINE_BYTES: Final = 160_000_000  # docs/memory.md


@dataclass(frozen=True, slots=True)
class MlxFacts:
    """See plan.facts.BackendFacts."""

    name: str = "mlx"
    package: str = "edgeinfer.backends.mlx"
    on_request_only: bool = False
    takes_threads: bool = False
    rows_cheap_to_read: bool = False
    prefill_rows: int = _PREFILL_ROWS
    max_rows: int = _MAX_ROWS
    exporting: None = None

    def capabilities(self, device: DeviceProfile) -> Capabilities:
        unavailable, hint = "", "use --backend gguf"
        if device.is_phone:
            unavailable, hint = NOT_ON_PHONES, ON_PHONES_HINT
        elif not device.has_metal:
            unavailable = f"{device.chip} has no Metal GPU"
        elif device.os != "macos":
            unavailable = "MLX for Python runs on macOS only"
        hint = hint if unavailable else ""
        return Capabilities(_TIERS, ("f16", "q8_0", "q4_0"), early_exit=True, unavailable=unavailable, hint=hint)

    def preferred_kv_type(self, device: DeviceProfile, shape: ModelShape) -> KvType:  # noqa: ARG002
        return "f16"

    def kv_bytes(self, shape: ModelShape, policy: WindowPolicy, kv_type: KvType) -> int:
        return sum(
            _slots(group, policy.slots)
            * group.n_layers
            * group.n_kv_heads
            * kv_row_bytes(kv_type, group.head_dim, _PACKED)
            for group in shape.kv
        )

    def workspace_bytes(self, shape: ModelShape, *, early_exit: bool) -> int:  # noqa: ARG002  # no memory of its own
        base = _ENGINE_BYTES + shape.n_vocab * TOKENIZER_BYTES_PER_ENTRY
        return base + forward_bytes(shape, _PREFILL_ROWS, _MAX_ROWS)

    def exact_rows(self, device: DeviceProfile, tensor_types: Set[str], kv_type: KvType) -> int | None:  # noqa: ARG002
        return None  # one row and several take different kernels, which round differently

    def taught_bytes(
        self, draft: TaughtDraft, shape: ModelShape, policy: WindowPolicy, kv_type: KvType, n_conversations: int
    ) -> int | None:
        """Weights in 16 bits, as in the file, and the draft's own rows of the head."""
        if shape.architecture not in DRAFTED_ARCHITECTURES:
            return None
        layer = replace(shape, kv=(replace(shape.kv[0], n_layers=1 + draft.exit_layer),))
        weights = draft.n_bytes + 2 * draft.n_ranked * shape.hidden
        return weights + n_conversations * (self.kv_bytes(layer, policy, kv_type) + tapped_bytes(draft, shape))

    def is_measured_on(self, device: DeviceProfile) -> bool:  # noqa: ARG002
        return False

    def engine_version(self) -> str:
        return installed_version("mlx")

    def reads_gguf(self, architecture: str, *, n_files: int = 1) -> bool:
        return n_files == 1 and architecture in _GGUF_ARCHITECTURES

    def reads_folder(self, architecture: str) -> bool:  # noqa: ARG002  # mlx-lm refuses what it does not know
        return True


def _slots(group: LayerKv, slots: int) -> int:
    """K/V rows of one layer. A layer with a window of its own keeps that and the rows of one forward."""
    return min(slots, round_up(group.window, _PREFILL_ROWS) + _PREFILL_ROWS) if group.window else slots


FACTS: Final = MlxFacts()
