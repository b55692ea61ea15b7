"""How a phone bundle would run, before it is exported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeinfer.backends.executorch.export.bundle import Storage
from edgeinfer.backends.executorch.export.source import open_source
from edgeinfer.backends.executorch.exports import BUNDLES, SOURCE_BACKEND, bundle_artifact, draft_bytes, source_of
from edgeinfer.backends.executorch.facts import FACTS
from edgeinfer.catalog import load_catalog
from edgeinfer.catalog.entry import ModelEntry
from edgeinfer.decode.drafters import drafter_facts
from edgeinfer.device import named
from edgeinfer.entries.files import RANK_SOURCE, entry_of_path
from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.plan import Plan, Request, make_plan
from edgeinfer.runner.choose import resolve
from edgeinfer.runner.taught import taught_draft
from edgeinfer.types import Sampling

__all__ = ["entry_of", "plan_export", "plan_named_export", "source_request"]


def plan_export(model: Path, storage: Storage, device: str) -> Plan:
    """How the bundle of `model` would run on a device of `devices.toml`. Raises NoPlanError where it does not fit."""
    source = open_source(model).shape
    shape = source.of_model
    name = f"{model.stem.lower()}-export"
    entry = ModelEntry(
        name=name,
        title=model.stem,
        license="",
        gated=False,
        rank=0,
        rank_source=RANK_SOURCE,
        shape=shape,
        sampling=Sampling(),
        artifacts=(bundle_artifact(shape, storage.tier, file=str(model), kv_type=storage.kv_type),),
        exit_layer=source.exit_layer,
        in_catalog=False,
    )
    return _planned(_with_draft(entry, storage.draft) if storage.draft else entry, device)


def plan_named_export(model: str, storage: Storage, device: str, *, offline: bool) -> Plan:
    """The same for a model by name, before its file is downloaded. The shape comes from the catalog or the hub."""
    entry = _entry(model, offline=offline)
    artifact = bundle_artifact(entry.shape, storage.tier, kv_type=storage.kv_type)
    return _planned(replace(entry, artifacts=(artifact,)), device)


def source_request(model: str, *, offline: bool) -> Request:
    """The request for the file from which a bundle of `model` is made: the file that the plan for a phone names.

    Raises ModelNotFoundError as `choose` does, and ArtifactError for a model that is not exported.
    """
    entry = _entry(model, offline=offline)
    source = source_of(entry)
    if source is None:
        raise ArtifactError(
            f"the catalog has no file of {model} that can be exported", hint="name a GGUF file or a folder"
        )
    if why := BUNDLES.cannot_export(entry.shape):
        raise ArtifactError(f"{entry.title}: {why}", hint="`edgeinfer plan --device NAME` names models that are")
    return Request(model=model, tier=source.tier, backend=SOURCE_BACKEND, force=True)


def entry_of(model: str, path: Path, *, offline: bool) -> ModelEntry:
    """The entry of the model that is named `model` and whose file is at `path`."""
    return entry_of_path(path, load_catalog().models) if Path(model).exists() else _entry(model, offline=offline)


def _with_draft(entry: ModelEntry, draft: DraftFile) -> ModelEntry:
    """`entry` with the draft as a part of its bundle."""
    [artifact] = entry.artifacts
    larger = replace(artifact, n_bytes=artifact.n_bytes + draft_bytes(draft, artifact.tier))
    taught = replace(taught_draft(draft.path, entry.shape), file="", n_bytes=0)
    return replace(entry, artifacts=(larger,), draft=taught)


def _entry(model: str, *, offline: bool) -> ModelEntry:
    catalog, request = resolve(load_catalog(), Request(model=model), offline=offline)
    return next(entry for entry in catalog.models if entry.name == request.model)


def _planned(entry: ModelEntry, device: str) -> Plan:
    catalog = load_catalog().with_model(entry)
    return make_plan(named(device), catalog, [FACTS], Request(model=entry.name), drafters=drafter_facts())
