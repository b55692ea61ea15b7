"""The oracle: a Llama-architecture model in NumPy float32, and the template for other backends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.backends.engine_errors import maps_engine_errors
from edgeinfer.backends.reference.facts import FACTS
from edgeinfer.backends.reserve import PlannedCaches
from edgeinfer.errors import ArtifactError
from edgeinfer.plan.facts import Probe, installed_version
from edgeinfer.plan.types import Plan
from edgeinfer.types import KvType

if TYPE_CHECKING:
    from edgeinfer.backends.reference.model import ReferenceModel

__all__ = ["BACKEND", "ReferenceBackend", "load_gguf"]

_LIBRARIES = ("numpy", "gguf", "tokenizers")


@maps_engine_errors("reference")
class ReferenceBackend:
    """See protocols.Backend."""

    name = FACTS.name

    def probe(self) -> Probe:
        versions = {name: installed_version(name) for name in _LIBRARIES}
        missing = " and ".join(name for name, found in versions.items() if not found)
        return Probe(versions, f"{missing} not installed", "pip install edgeinfer") if missing else Probe(versions)

    def report(self) -> Mapping[str, str]:
        return {}

    def forget(self, path: Path) -> None:
        """Nothing is kept about a model."""

    def before_load(self, plan: Plan, path: Path) -> str:  # noqa: ARG002
        return ""

    def load(self, plan: Plan, path: Path) -> ReferenceModel:
        return load_gguf(
            path,
            kv_type=plan.kv_type,
            exit_layer=plan.speculation.exit_layer,
            draft=Path(plan.taught.file) if plan.taught else None,
            n_ranked=plan.taught.n_ranked if plan.taught else None,
            planned=PlannedCaches(plan.n_conversations, plan.window),
        )


def load_gguf(
    path: Path,
    *,
    kv_type: KvType = "f32",
    exit_layer: int | None = None,
    draft: Path | None = None,
    n_ranked: int | None = None,
    planned: PlannedCaches | None = None,
) -> ReferenceModel:
    """A model that drafts with the taught `draft`, with layers [0, `exit_layer`), or not at all.

    `n_ranked` limits the tokens that the draft chooses among.

    Raises ArtifactError for a file that is damaged, hostile, or of an architecture that is not computed here, for an
    exit layer that it does not have, and for a draft of another model.
    """
    from edgeinfer.backends.reference.model import ReferenceModel
    from edgeinfer.backends.reference.weights import read_shape, read_weights
    from edgeinfer.formats.artifact import check_artifact
    from edgeinfer.formats.gguf_header import GgufHeader
    from edgeinfer.formats.gguf_tokenizer import GgufTokenizer

    header = check_artifact(path)
    if not isinstance(header, GgufHeader):
        raise ArtifactError(f"{path} is a folder; the reference loads one .gguf file")
    if header.parts:
        raise ArtifactError(f"{path} is a model in {len(header.parts)} parts", hint="use --backend gguf")
    shape = read_shape(header, str(path))
    if exit_layer is not None and not 0 < exit_layer < shape.n_layers:
        raise ArtifactError(f"{path} has {shape.n_layers} layers; it cannot exit after layer {exit_layer}")
    weights = read_weights(header, path, shape)
    tokenizer, taught = GgufTokenizer(header), None
    if draft is not None:
        from edgeinfer.backends.reference.taught import TaughtLayer
        from edgeinfer.formats.draft_file import read_draft_for
        from edgeinfer.formats.shape import shape_from_gguf

        file = read_draft_for(draft, shape_from_gguf(header))
        file = file.with_vocabulary(n_ranked or len(file.ranked_tokens))
        taught = TaughtLayer(file, shape, weights, tokenizer, kv_type)
    return ReferenceModel(
        shape, weights, tokenizer, kv_type=kv_type, exit_layer=exit_layer, taught=taught, planned=planned
    )


BACKEND = ReferenceBackend()
