"""Which bundles can be made of a model: from which file, and how large they will be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeinfer.catalog.entry import Artifact, ModelEntry
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.shape import ModelShape
from edgeinfer.types import KvType

if TYPE_CHECKING:
    from edgeinfer.formats.draft_file import DraftFile  # needs NumPy, which a plan does without

__all__ = [
    "ARCHITECTURES",
    "BUNDLES",
    "BUNDLE_BACKEND",
    "SOURCE_BACKEND",
    "Bundles",
    "draft_bytes",
    "exports_of",
    "program_bytes",
    "read_bytes",
    "source_of",
]

BUNDLE_BACKEND: Final = "executorch"
SOURCE_BACKEND: Final = "gguf"  # a bundle of a catalog model is made from a file of this backend
ARCHITECTURES: Final = frozenset({"llama", "mistral", "qwen2", "qwen3"})  # those of export/*_source.py

_BITS: Final[Mapping[str, float]] = {"8da4w": 4.5, "8da8w": 8, "fp16": 16, "fp32": 32}
_GRAPH_BYTES_PER_LAYER: Final = 20_000  # norms, scales of rows, and the program itself


def exports_of(model: ModelEntry) -> tuple[Artifact, ...]:
    """The bundles of `model` for a phone, smallest first; () where the catalog has no file to make them from.

    8da8w is not made from a Q4_0 file: 8da4w holds the values of such a file already.
    """
    source = source_of(model)
    if source is None:
        return ()
    tiers = ("8da4w",) if source.tier == "Q4_0" else ("8da4w", "8da8w")
    return tuple(bundle_artifact(model.shape, tier, made_from=source) for tier in tiers)


def source_of(model: ModelEntry) -> Artifact | None:
    """The file that a bundle is made from: one of the package index, else the largest."""
    files = [file for file in model.artifacts if file.backend == SOURCE_BACKEND]
    return max(files, key=lambda file: (bool(file.package), file.n_bytes), default=None)


def bundle_artifact(
    shape: ModelShape, tier: str, *, file: str = "", kv_type: KvType | None = None, made_from: Artifact | None = None
) -> Artifact:
    """A bundle with its computed size. `kv_type` is None where the export may choose it."""
    return Artifact(
        BUNDLE_BACKEND,
        tier,
        program_bytes(shape, tier),
        repo="",
        file=file,
        exact=False,
        tensors=((tier, read_bytes(shape, tier)),),
        kv_type=kv_type,
        made_from=made_from,
    )


def program_bytes(shape: ModelShape, tier: str) -> int:
    """The size of `model.pte`. The embedding lies beside the head, also where the model ties them."""
    vocabulary = shape.n_vocab * shape.hidden
    return read_bytes(shape, tier) + vocabulary * max(8, int(_BITS[tier])) // 8


def read_bytes(shape: ModelShape, tier: str) -> int:
    """What one token reads and XNNPACK packs: every matrix but the embedding.

    `attn_v` and `attn_output` have 8 bits in 8da4w too.
    """
    in_tier, in_8_bits = shape.n_vocab * shape.hidden + 3 * shape.n_layers * shape.hidden * shape.n_ffn, 0
    for group in shape.kv:
        queries = shape.hidden * shape.n_heads * group.head_dim
        keys = shape.hidden * group.n_kv_heads * group.head_dim
        in_tier += group.n_layers * (queries + keys)
        in_8_bits += group.n_layers * (queries + keys)  # attn_output and attn_v are as large
    bits = _BITS[tier] * in_tier + max(8, _BITS[tier]) * in_8_bits
    return int(bits / 8) + _GRAPH_BYTES_PER_LAYER * shape.n_layers


def draft_bytes(draft: DraftFile, tier: str) -> int:
    """What a taught draft adds to a program: its own matrices, in 8 bits at least, and its copy of rows of the head."""
    shape = draft.shape
    queries, keys = shape.n_heads * shape.head_dim, shape.n_kv_heads * shape.head_dim
    layer = shape.hidden * (2 * queries + 2 * keys + 3 * shape.n_ffn)
    inputs = (2 + len(draft.taps)) * shape.hidden**2 if draft.taps else 0
    bits = max(8, _BITS[tier]) * (layer + inputs) + _BITS[tier] * len(draft.ranked_tokens) * shape.hidden
    return int(bits / 8) + _GRAPH_BYTES_PER_LAYER


@dataclass(frozen=True, slots=True)
class Bundles:
    """See plan.facts.Exporting."""

    def exports(self, device: DeviceProfile, model: ModelEntry) -> tuple[Artifact, ...]:
        return exports_of(model) if device.is_phone else ()

    def cannot_export(self, shape: ModelShape) -> str:
        return "" if shape.architecture in ARCHITECTURES else f"{shape.architecture} models are not exported"

    def packed_bytes(self, artifact: Artifact) -> int:
        """All but the embedding, which is read from the program's file."""
        return sum(n_bytes for _, n_bytes in artifact.tensors) or artifact.n_bytes


BUNDLES: Final = Bundles()
