"""What the program may know of llama.cpp without importing it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from typing import Final

from edgeinfer.catalog.entry import TaughtDraft
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.formats.gguf_types import FILE_TYPES
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
from edgeinfer.types import MIXED, KvType
from edgeinfer.window import WindowPolicy

__all__ = [
    "DRAFTED_ARCHITECTURES",
    "DRAFT_ROWS",
    "FACTS",
    "N_OUTPUTS",
    "OWN_ROWS",
    "PREFILL_ROWS",
    "LlamaCppFacts",
    "exact_rows_of",
    "is_repacked",
    "splits_keys",
]

PREFILL_ROWS: Final = 256  # rows of one decode; activations are sized for them
N_OUTPUTS: Final = 16  # rows with logits of one decode; a verify of more runs in parts
OWN_ROWS: Final = 16  # of kernels/: MOST_F16_INPUTS; other types have no limit
DRAFT_ROWS: Final = 64  # of one decode of a taught draft's layer
DRAFTED_ARCHITECTURES: Final[Mapping[str, frozenset[str]]] = {
    "exit": frozenset({"llama"}),  # a taught layer has no Q and K norms, so it cannot follow layers that have them
    "feature": frozenset({"llama", "qwen3"}),  # whose graphs give the inputs of their layers
}
_KV_TYPES: Final[tuple[KvType, ...]] = (MIXED, "q8_0", "f16", "q4_0")

_CELLS: Final = 256  # llama.cpp rounds the cells of a context up to a multiple of this
_BLOCK: Final = Scaling(n_values=32, n_bytes=2)  # block_q8_0 and block_q4_0
_ENGINE_BYTES: Final = 87_000_000  # docs/memory.md: the interpreter with its imports, llama.cpp's code and tables
_EXIT_BYTES: Final = 11_000_000  # docs/memory.md: two contexts that draft and verify, without their K/V

# Rows of a batch that round as single rows do, by type of matrix. Measured with the x86 kernels of ggml 0.25, flash
# attention on.
_EXACT_ROWS: Final[Mapping[str, int]] = {
    "Q4_0": 16, "Q4_1": 16, "Q5_0": 16, "Q5_1": 16, "Q8_0": 16, "Q4_K": 3, "Q5_K": 7, "Q6_K": 7
}  # fmt: skip

_REPACKED_X86: Final = frozenset({"Q4_0", "Q4_K", "Q2_K", "IQ4_NL", "MXFP4"})  # ggml-cpu/repack.cpp, AVX2
_REPACKED_ARM: Final = _REPACKED_X86 | {"Q5_K", "Q6_K", "Q8_0"}


def exact_rows_of(tensor_types: Set[str], exact_types: Set[str] = frozenset()) -> int | None:
    """Most rows that equal single rows bit for bit, for a file whose matrices have these types, on x86.

    `exact_types`: those of which 16 rows do, by the kernels of `kernels/` or by AMX.
    """
    rows = {**_EXACT_ROWS, **dict.fromkeys(exact_types, OWN_ROWS)}
    return min(rows[name] for name in tensor_types) if tensor_types and tensor_types <= rows.keys() else None


def splits_keys(kv_type: KvType) -> bool:
    """Whether several threads share the keys of a lone row, and so sum them in another order than those of a batch.

    ggml does so from 512 cells on where both K and V are floats (ops.cpp, use_split_kv_path).
    """
    return kv_type in ("f16", "f32")


def is_repacked(tensor_types: Set[str], *, arm: bool) -> bool:
    """Whether llama.cpp copies tensors into another layout: a mapped file would then be in memory twice."""
    return bool(tensor_types & (_REPACKED_ARM if arm else _REPACKED_X86))


@dataclass(frozen=True, slots=True)
class LlamaCppFacts:
    """See plan.facts.BackendFacts."""

    name: str = "gguf"
    package: str = "edgeinfer.backends.gguf"
    on_request_only: bool = False
    takes_threads: bool = True
    rows_cheap_to_read: bool = True
    prefill_rows: int = PREFILL_ROWS
    max_rows: int = N_OUTPUTS
    exporting: None = None

    def capabilities(self, device: DeviceProfile) -> Capabilities:
        unavailable, hint = (NOT_ON_PHONES, ON_PHONES_HINT) if device.is_phone else ("", "")
        return Capabilities(
            frozenset(FILE_TYPES.values()), _KV_TYPES, early_exit=True, unavailable=unavailable, hint=hint
        )

    def preferred_kv_type(self, device: DeviceProfile, shape: ModelShape) -> KvType:
        """f16 on Metal, where other types are slow, and for heads that are not whole blocks.

        On x86 with AVX2, V in 16 bits makes four rows of the demo cost 2.0 plain ones instead of 2.3, and several rows
        still round as one. Elsewhere that was not measured, and 8 bits take less memory.
        """
        whole = all(group.head_dim % _BLOCK.n_values == 0 for group in shape.kv)
        if device.has_metal or not whole:
            return "f16"
        return MIXED if device.has_avx2 else "q8_0"

    def kv_bytes(self, shape: ModelShape, policy: WindowPolicy, kv_type: KvType) -> int:
        return sum(
            _cells(group, policy.slots)
            * group.n_layers
            * kv_row_bytes(kv_type, group.n_kv_heads * group.head_dim, _BLOCK)
            for group in shape.kv
        )

    def workspace_bytes(self, shape: ModelShape, *, early_exit: bool) -> int:
        base = _ENGINE_BYTES + shape.n_vocab * TOKENIZER_BYTES_PER_ENTRY
        return base + forward_bytes(shape, PREFILL_ROWS, N_OUTPUTS) + (_exit_bytes(shape) if early_exit else 0)

    def exact_rows(self, device: DeviceProfile, tensor_types: Set[str], kv_type: KvType) -> int | None:
        if splits_keys(kv_type) or not _runs_on_x86(device):
            return None
        return exact_rows_of(tensor_types, _exact_types(device))

    def taught_bytes(
        self, draft: TaughtDraft, shape: ModelShape, policy: WindowPolicy, kv_type: KvType, n_conversations: int
    ) -> int | None:
        """A model of the draft's layers in Q8_0, its K/V and its buffers; what is projected in front of it in
        float32."""
        if shape.architecture not in DRAFTED_ARCHITECTURES[draft.kind]:
            return None
        n_layers = 1 + draft.exit_layer
        layer = replace(
            shape,
            n_layers=n_layers,
            n_vocab=draft.n_ranked + shape.hidden,
            kv=(replace(shape.kv[0], n_layers=n_layers),),
        )
        weights = max(2, n_layers) * draft.n_bytes + layer.n_vocab * shape.hidden * 17 // 16
        buffers = forward_bytes(layer, DRAFT_ROWS, 1)
        of_each = self.kv_bytes(layer, policy, kv_type) + tapped_bytes(draft, shape)
        return weights + buffers + n_conversations * of_each

    def is_measured_on(self, device: DeviceProfile) -> bool:
        return _runs_on_x86(device)

    def engine_version(self) -> str:
        from edgeinfer.backends.gguf.kernels.library import version

        kernels = version()
        return installed_version("llama-cpp-python") + (f" with kernels {kernels}" if kernels else "")

    def reads_gguf(self, architecture: str, *, n_files: int = 1) -> bool:  # noqa: ARG002  # loading refuses what it cannot use
        return True

    def reads_folder(self, architecture: str) -> bool:  # noqa: ARG002
        return False


def _cells(group: LayerKv, slots: int) -> int:
    """K/V cells of one layer. A layer with a window of its own keeps that and the rows of one decode."""
    cells = round_up(slots, _CELLS)
    return min(cells, round_up(group.window + PREFILL_ROWS, _CELLS)) if group.window else cells


def _exit_bytes(shape: ModelShape) -> int:
    """Two more contexts, each with the smallest K/V that llama.cpp allocates."""
    cell = sum(group.n_layers * kv_row_bytes("q4_0", group.n_kv_heads * group.head_dim, _BLOCK) for group in shape.kv)
    return _EXIT_BYTES + 2 * _CELLS * cell


def _exact_types(device: DeviceProfile) -> Set[str]:
    from edgeinfer.backends.gguf.amx import amx_types
    from edgeinfer.backends.gguf.kernels.library import types_with_kernels, why_not

    if device.named:
        return frozenset()
    try:
        return amx_types() if why_not(device) else amx_types().union(types_with_kernels())
    except (ImportError, OSError):  # llama.cpp is missing, which its probe says
        return frozenset()


def _runs_on_x86(device: DeviceProfile) -> bool:
    return device.has_avx2 and not device.accelerators


FACTS: Final = LlamaCppFacts()
