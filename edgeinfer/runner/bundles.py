"""A phone bundle as a catalog entry, made from its manifest."""

from __future__ import annotations

from edgeinfer.backends.executorch.facts import FACTS
from edgeinfer.catalog.entry import Artifact, LayerKv, ModelEntry, ModelShape
from edgeinfer.formats.bundle import Bundle, Manifest
from edgeinfer.types import Sampling


def entry_of_bundle(name: str, bundle: Bundle, sampling: Sampling, rank_source: str) -> ModelEntry:
    manifest = bundle.manifest
    n_bytes = sum(file.n_bytes for file in manifest.files.values())
    return ModelEntry(
        name=name,
        title=manifest.name or name,
        license=manifest.license or "not stated",
        gated=False,
        rank=0,
        rank_source=rank_source,
        shape=_shape(manifest),
        sampling=sampling,
        artifacts=(Artifact(FACTS.name, manifest.tier, n_bytes, repo="", file=str(bundle.path.resolve())),),
        exit_layer=manifest.exit_layer or None,
    )


def _shape(manifest: Manifest) -> ModelShape:
    return ModelShape(
        architecture=manifest.architecture,
        n_layers=manifest.n_layers,
        hidden=manifest.hidden,
        n_heads=manifest.n_heads,
        n_ffn=manifest.n_ffn,
        n_vocab=manifest.n_vocab,
        limit=manifest.limit,
        kv=(LayerKv(manifest.n_layers, manifest.n_kv_heads, manifest.head_dim),),
        n_params=manifest.n_params,
        n_active_params=manifest.n_params,
    )
