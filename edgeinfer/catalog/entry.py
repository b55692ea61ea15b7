"""A model and its files, as `models.toml` describes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgeinfer.shape import LayerKv, ModelShape
from edgeinfer.types import KvType, Sampling

__all__ = ["Artifact", "LayerKv", "ModelEntry", "ModelShape", "Pick", "TaughtDraft", "Tier"]


@dataclass(frozen=True, slots=True)
class Artifact:
    """One file (or folder) of one model: what is downloaded and loaded."""

    backend: str  # its name, as in `backends.FACTS`
    tier: str  # "Q4_K_M", "Q8_0", "mlx-4bit-g64", "8da4w", ...
    n_bytes: int
    repo: str  # "org/name" on the hub; "" for any other source
    file: str  # in the repo or wheel; "" for a folder; a local file: its path; embedded: below the package folder
    revision: str = ""
    sha256: str = ""  # "sha256:<64 hex>"; "" where the source publishes none
    embedded: bool = False  # ships inside the package
    exact: bool = True  # False: `n_bytes` is an estimate, so a file of another length is not refused
    package: str = ""  # "name==version": a wheel of the package index that holds `file`
    tensors: tuple[tuple[str, int], ...] = ()  # bytes that a token reads, by tensor type; (): the file was not read
    head: tuple[str, int] = (
        "",
        0,
    )  # type and bytes of the matrix over the vocabulary, included above; ("", 0): not read
    kv_type: KvType | None = None  # the only type of K and V that it runs with; None: each that its backend has
    made_from: Artifact | None = None  # `edgeinfer export` makes it from this one; None: it is loaded as it is

    @property
    def tensor_types(self) -> frozenset[str]:
        """Types of the matrices, from the file's header; empty if it was not read."""
        return frozenset(name for name, _ in self.tensors)

    @property
    def key(self) -> str:
        """The key of the file and its backend in records that are kept between runs."""
        return " ".join([self.backend, self.source, self.file, self.revision, str(self.n_bytes)])

    @property
    def source(self) -> str:
        """Where it is downloaded from, for display and as a key; "" for a local or embedded file."""
        return self.repo or self.package


@dataclass(frozen=True, slots=True)
class TaughtDraft:
    """A draft that was taught to one model, as the header of its file describes it."""

    kind: Literal["exit", "feature"]
    file: str  # path; "": the model's own file holds it
    n_bytes: int
    base_model: str
    exit_layer: int  # layers of the model that it runs copies of; 0 for a feature draft
    n_taps: int  # states of the model that it needs at every position
    n_ranked: int  # tokens that it can propose
    agreement: tuple[float, ...]  # share of right drafts by depth, where those before were right; may be empty
    by_vocabulary: tuple[tuple[int, tuple[float, ...]], ...] = ()  # the same for fewer tokens; may be empty

    def key(self, artifact: Artifact) -> str:
        """Names the draft with the file that it drafts for, in what is kept between runs."""
        return f"{artifact.key} {self.file}"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    name: str  # the catalog name: "qwen3-4b"
    title: str  # the true base model: "Qwen3 4B"
    license: str
    gated: bool
    rank: int  # order of quality; higher is better
    rank_source: str
    shape: ModelShape
    sampling: Sampling
    artifacts: tuple[Artifact, ...]
    exit_layer: int | None = None
    thinking: tuple[str, str] | None = None  # tags around the trace: ("<think>", "</think>")
    notes: str = ""
    draft_file: str = ""  # path of a taught draft, from the catalog
    draft: TaughtDraft | None = (
        None  # the header of the requested draft, of the catalog's, or of the one beside the model
    )
    no_draft: str = ""  # why such a file exists but is not used
    in_catalog: bool = True  # False: made from a file, and known only by its path or repository


@dataclass(frozen=True, slots=True)
class Tier:
    """A quantization. `bits` is the average per weight of real files; a higher `order` keeps more of the model."""

    name: str
    bits: float
    order: int


@dataclass(frozen=True, slots=True)
class Pick:
    """A row of the table by memory size: the models to choose at that size, the best first."""

    gb: int
    models: tuple[str, ...]
    tiers: tuple[str, ...]
