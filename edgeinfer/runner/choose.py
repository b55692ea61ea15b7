"""From a request to the plan: what is installed, what is known, and the one function that decides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from edgeinfer import backends
from edgeinfer.catalog import Catalog, ModelEntry, load_catalog
from edgeinfer.decode.drafters import drafter_facts
from edgeinfer.device import detect, named
from edgeinfer.entries.local_files import with_own_tensors
from edgeinfer.errors import ArtifactError, ModelNotFoundError, UsageError
from edgeinfer.hub.names import parse_name
from edgeinfer.plan import Plan, Request, make_plan
from edgeinfer.plan.taught import sized, why_hopeless

__all__ = ["choose", "resolve"]


def choose(
    request: Request | str = "", *, device: str = "", offline: bool = False, installed_only: bool = True
) -> Plan:
    """The plan for this machine, or for a device of `devices.toml`. `request` may be a model's name alone.

    `installed_only=False` plans as if every engine that this machine could have were installed.

    Loads no engine. Uses the network only for the header of an `org/repo` that is in no catalog, and never with
    `offline`. Raises ModelNotFoundError, UsageError, NoPlanError, BackendError, ArtifactError, DownloadError.
    """
    if isinstance(request, str):
        request = Request(model=request)
    profile = named(device) if device else detect()
    facts = [one for one in backends.FACTS if not one.on_request_only or one.name == request.backend]
    probes = {} if device or not installed_only else {one.name: backends.get(one.name).probe() for one in facts}
    catalog, request = resolve(load_catalog(), request, offline=offline)
    catalog = with_own_tensors(catalog, request.model)
    plan = make_plan(profile, catalog, facts, request, drafters=drafter_facts(), probes=probes)
    if request.draft_model and plan.draft is None:
        raise UsageError(
            f"the plan does not draft with {request.draft_model}: speculation is {plan.speculation.mode}",
            hint='use speculation "auto" or "draft", or name no draft model',
        )
    if request.draft_file and plan.taught is None and not left_out_as_hopeless(plan):
        raise UsageError(
            f"the plan does not draft with {request.draft_file}: {plan.backend} cannot run it for this model, or "
            f"speculation is {plan.speculation.mode}",
            hint="gguf, mlx and reference run drafts of llama and qwen3 models, with --speculation auto; "
            "a phone bundle has the draft that it was exported with",
        )
    return plan


def left_out_as_hopeless(plan: Plan) -> bool:
    """Whether the plan drafts without the model's taught draft because rows cost too much on this device."""
    draft = plan.model.draft
    if draft is None or plan.speculation.mode != "auto":
        return False
    times = plan.device.row_times.get(draft.key(plan.artifact))
    return bool(why_hopeless(sized(draft, plan.model.shape, times), plan.model.shape, times))


def resolve(catalog: Catalog, request: Request, *, offline: bool) -> tuple[Catalog, Request]:
    """The request with catalog names; a model that is in no catalog is added to it from its own header."""
    if request.model:
        named_by, tier = _named(catalog, request.model, request.tier, offline=offline)
        if isinstance(named_by, ModelEntry):
            catalog = catalog.with_model(named_by)
            named_by = named_by.name
        request = replace(request, model=named_by, tier=tier)
    catalog = _with_taught(catalog, request)
    if request.draft_model and request.speculation != "off":
        named_by, tier = _named(catalog, request.draft_model, request.draft_tier, offline=offline)
        if isinstance(named_by, ModelEntry):
            taken = catalog.find(named_by.name) is not None
            draft = replace(named_by, name=f"{named_by.name}-draft") if taken else named_by
            catalog = catalog.with_model(draft)
            named_by = draft.name
        request = replace(request, draft_model=named_by, draft_tier=tier)
    return catalog, request


def _with_taught(catalog: Catalog, request: Request) -> Catalog:
    """`catalog`, whose wanted model has the draft of the request, that of its entry, or the one beside its file."""
    if not request.model:
        if request.draft_file:
            raise UsageError("a draft is for one model", hint="name it with --model")
        return catalog
    entry = catalog.find(request.model)
    if entry is None or request.speculation == "off":
        return catalog
    from edgeinfer.runner.taught import draft_of, taught_draft

    if request.draft_file:
        return catalog.with_model(replace(entry, draft=taught_draft(Path(request.draft_file), entry.shape)))
    found = draft_of(entry)
    if found is None:
        return catalog
    try:
        return catalog.with_model(replace(entry, draft=taught_draft(found, entry.shape)))
    except ArtifactError as error:  # it was not asked for: a stale draft must not keep the model from running
        return catalog.with_model(replace(entry, no_draft=str(error)))


def _named(catalog: Catalog, text: str, wanted_tier: str, *, offline: bool) -> tuple[str | ModelEntry, str]:
    """A catalog name, or an entry for a model that is in no catalog, and the tier that the request names."""
    try:
        name = parse_name(text, [model.name for model in catalog.models])
    except ModelNotFoundError as error:
        why = catalog.explain_missing(text)
        near = catalog.near(text)
        if (not why and not near) or Path(text).exists():  # what is wrong with a path is said already
            raise
        hints = [why, f"near names: {', '.join(near)}" if near else ""]
        raise ModelNotFoundError(str(error), hint="; ".join(hint for hint in hints if hint)) from error
    tier = name.tier or wanted_tier
    if name.kind == "catalog":
        return name.name, tier
    from edgeinfer.entries.files import entry_of_path, entry_of_repo  # the readers of file formats take time to import

    if name.path is not None:
        return entry_of_path(name.path, catalog.models), wanted_tier
    known = (
        (model, file)
        for model in catalog.models
        for file in model.artifacts
        if file.repo == name.name and name.file in ("", file.file)
    )
    for model, file in known:
        return model.name, file.tier if name.file else tier
    return entry_of_repo(name.name, tier, file=name.file, offline=offline, known=catalog.models), ""
