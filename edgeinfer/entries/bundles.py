"""Phone bundles as catalog entries, from what their manifests say."""

from __future__ import annotations

from dataclasses import replace

from edgeinfer.backends.executorch.exports import bundle_artifact
from edgeinfer.catalog.entry import ModelEntry, TaughtDraft
from edgeinfer.formats.bundle import Bundle
from edgeinfer.formats.manifest import BundleDraft
from edgeinfer.types import Sampling

RANK_SOURCE = "not ranked: it is in no catalog"


def entry_of_bundle(name: str, bundle: Bundle, sampling: Sampling) -> ModelEntry:
    manifest = bundle.manifest
    n_bytes = sum(file.n_bytes for file in manifest.files.values())
    computed = bundle_artifact(manifest.shape, manifest.tier, file=str(bundle.path.resolve()), kv_type=manifest.kv_type)
    return ModelEntry(
        name=name,
        title=manifest.name or name,
        license=manifest.license or "not stated",
        gated=False,
        rank=0,
        rank_source=RANK_SOURCE,
        shape=manifest.shape,
        sampling=sampling,
        artifacts=(replace(computed, n_bytes=n_bytes, exact=True),),
        exit_layer=manifest.exit_layer or None,
        draft=taught_draft_of(manifest.draft) if manifest.draft else None,
        in_catalog=False,
    )


def taught_draft_of(draft: BundleDraft) -> TaughtDraft:
    """A draft of a bundle is no file: its weights are in the program."""
    return TaughtDraft(
        kind=draft.kind,
        file="",
        n_bytes=0,
        base_model=draft.base_model,
        exit_layer=draft.exit_layer,
        n_taps=len(draft.taps),
        n_ranked=draft.n_ranked,
        agreement=draft.agreement,
    )
