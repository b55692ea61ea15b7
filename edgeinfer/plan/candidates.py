"""Every model, tier and backend that could run, each judged against one device."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from edgeinfer.catalog.catalog import Catalog
from edgeinfer.catalog.entry import Artifact, ModelEntry, TaughtDraft
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.errors import UsageError
from edgeinfer.plan.facts import GRAMMAR_BYTES_PER_ENTRY, BackendFacts, Capabilities, Probe
from edgeinfer.plan.fit import DEFAULT_CONTEXT, make_policy, tokens_per_s
from edgeinfer.plan.taught import sized, why_hopeless
from edgeinfer.plan.types import Estimate, Plan, Rejection, RejectionKind, Request
from edgeinfer.types import KvType
from edgeinfer.window import WindowPolicy

__all__ = ["BackendOnDevice", "Candidate", "candidates", "on_device", "wanted_context", "with_exports"]

_LONG_CONTEXT = 32768  # tokens that `--prefer context` wants


@dataclass(frozen=True, slots=True)
class BackendOnDevice:
    """A backend on one device, with what was found installed there."""

    facts: BackendFacts
    capabilities: Capabilities
    unavailable: str  # why it cannot run there; "" when it can
    hint: str
    no_early_exit: str  # why it is switched off; "" when it is not


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that can run on the device, with what it costs at the wanted context."""

    model: ModelEntry
    artifact: Artifact
    facts: BackendFacts
    exit_layer: int | None  # layer of the early exit; None: no early exit
    no_early_exit: str  # why an early exit of the file is not used; "" if it is
    tier_order: int
    kv_type: KvType
    window: WindowPolicy
    estimate: Estimate
    tokens_per_s: float
    n_conversations: int
    draft: Plan | None
    taught: TaughtDraft | None
    no_taught: str  # why the model's taught draft is not used; "" if it is, or if there is none

    @property
    def key(self) -> tuple[int, bool, int, float]:
        """Sort key: quality, then a file of the package index (reachable wherever edgeinfer was installed from), the
        tier, the speed."""
        return (self.model.rank, bool(self.artifact.package), self.tier_order, self.tokens_per_s)

    def with_window(self, window: WindowPolicy) -> Candidate:
        kv_bytes = self.n_conversations * self.facts.kv_bytes(self.model.shape, window, self.kv_type)
        draft_bytes = self.estimate.draft_bytes + self._taught_bytes(window) - self._taught_bytes(self.window)
        return replace(self, window=window, estimate=replace(self.estimate, kv_bytes=kv_bytes, draft_bytes=draft_bytes))

    def _taught_bytes(self, window: WindowPolicy) -> int:
        if self.taught is None:
            return 0
        shape, n = self.model.shape, self.n_conversations
        return self.facts.taught_bytes(self.taught, shape, window, self.kv_type, n) or 0

    def rejected(self, kind: RejectionKind, reason: str, over_bytes: int = 0) -> Rejection:
        artifact = self.artifact
        return Rejection(self.model.name, artifact.tier, artifact.backend, kind, reason, over_bytes, self.model.rank)


def on_device(device: DeviceProfile, facts: BackendFacts, probe: Probe) -> BackendOnDevice:
    found = facts.capabilities(device)
    found = replace(found, early_exit=found.early_exit and not probe.no_early_exit)
    return BackendOnDevice(
        facts, found, probe.unavailable or found.unavailable, probe.hint or found.hint, probe.no_early_exit
    )


def with_exports(device: DeviceProfile, catalog: Catalog, facts: Sequence[BackendFacts]) -> Catalog:
    """`catalog` with what can be exported for `device` ahead of the files that each model has."""
    models = []
    for model in catalog.models:
        known = model.artifacts
        made = [artifact for one in facts if one.exporting for artifact in one.exporting.exports(device, model)]
        exports = [artifact for artifact in made if artifact not in known]
        models.append(replace(model, artifacts=(*exports, *known)))
    return replace(catalog, models=tuple(models))


def wanted_context(model: ModelEntry, request: Request) -> int:
    """The context at which a model must fit. The chosen model gets a larger one where memory allows."""
    if request.context is not None:
        return request.context
    usual = _LONG_CONTEXT if request.prefer == "context" else DEFAULT_CONTEXT
    return min(max(usual, 2 * (request.sink or 0)), model.shape.limit)


def candidates(
    device: DeviceProfile,
    catalog: Catalog,
    backends: Sequence[BackendOnDevice],
    request: Request,
    drafts: Mapping[str, Plan] | None,
) -> Iterator[Candidate | Rejection]:
    """Each artifact of each wanted model that `request` does not exclude by name, tier or backend.

    `drafts` has the plan of the draft model for each backend that can run it; None: there is no draft model.
    """
    by_name = {backend.facts.name: backend for backend in backends}
    for model in reversed(catalog.models):
        if request.model and model.name != request.model:
            continue
        for artifact in model.artifacts:
            if (request.tier and artifact.tier != request.tier) or artifact.backend not in by_name:
                continue
            if not request.backend or artifact.backend == request.backend:
                yield _judge(device, catalog, model, artifact, by_name[artifact.backend], request, drafts)


def _judge(
    device: DeviceProfile,
    catalog: Catalog,
    model: ModelEntry,
    artifact: Artifact,
    backend: BackendOnDevice,
    request: Request,
    drafts: Mapping[str, Plan] | None,
) -> Candidate | Rejection:
    def refuse(kind: RejectionKind, reason: str) -> Rejection:
        return Rejection(model.name, artifact.tier, artifact.backend, kind, reason, rank=model.rank)

    facts, found, tier = backend.facts, backend.capabilities, catalog.tiers.get(artifact.tier)
    if backend.unavailable:
        return refuse("unavailable", f"{facts.name} cannot run: {backend.unavailable}")
    if artifact.made_from and facts.exporting and (why := facts.exporting.cannot_export(model.shape)):
        return refuse("unavailable", why)
    if tier and artifact.tier not in found.tiers:  # a tier that is in no table is left to the engine
        return refuse("unavailable", f"{facts.name} does not load {artifact.tier}")
    kv_type = request.kv_type or artifact.kv_type or facts.preferred_kv_type(device, model.shape)
    if drafts is not None and facts.name not in drafts:
        return refuse("unavailable", f"{facts.name} cannot run the draft model {request.draft_model}")
    try:
        window = make_policy(model.shape, wanted_context(model, request), request.sink)
    except UsageError as error:
        return refuse("context", str(error))
    if why := _other_kv_type(model, artifact, backend, kv_type, window):
        return refuse("kv", why)
    draft = drafts[facts.name] if drafts is not None else None
    exit_layer, no_early_exit = _early_exit(model, backend, request)
    taught, no_taught = _taught(device, model, artifact, request)
    taught_bytes = facts.taught_bytes(taught, model.shape, window, kv_type, request.conversations) if taught else 0
    if taught is not None and taught_bytes is None:
        no_taught = f"{facts.name} runs no {taught.kind} draft of {model.shape.architecture} models"
    taught = None if taught_bytes is None else taught
    draft_bytes = draft.estimate.weight_bytes + draft.estimate.kv_bytes if draft else 0
    return Candidate(
        model=model,
        artifact=artifact,
        facts=facts,
        exit_layer=None if taught else exit_layer,  # a model drafts by itself in one way
        no_early_exit=no_early_exit,
        tier_order=tier.order if tier else 0,
        kv_type=kv_type,
        window=window,
        estimate=Estimate(
            weight_bytes=artifact.n_bytes,
            kv_bytes=request.conversations * facts.kv_bytes(model.shape, window, kv_type),
            workspace_bytes=found.interpreter_bytes
            + facts.workspace_bytes(model.shape, early_exit=exit_layer is not None and not taught)
            + (model.shape.n_vocab * GRAMMAR_BYTES_PER_ENTRY if request.json_schemas else 0),
            draft_bytes=draft_bytes + (taught_bytes or 0),
            packed_bytes=facts.exporting.packed_bytes(artifact) if facts.exporting else 0,
        ),
        tokens_per_s=tokens_per_s(device, model.shape, artifact),
        n_conversations=request.conversations,
        draft=draft,
        taught=taught,
        no_taught=no_taught,
    )


def _other_kv_type(
    model: ModelEntry, artifact: Artifact, backend: BackendOnDevice, kv_type: KvType, window: WindowPolicy
) -> str:
    """Why K and V cannot be kept as `kv_type`; "" when they can."""
    if kv_type not in backend.capabilities.kv_types:
        return f"{backend.facts.name} does not keep K and V as {kv_type}"
    if artifact.kv_type is None or artifact.kv_type == kv_type:
        return ""
    n_bytes = backend.facts.kv_bytes(model.shape, window, artifact.kv_type) // window.slots
    return f"it keeps K and V as {artifact.kv_type} ({n_bytes:,} bytes a token), not as {kv_type}"


def _early_exit(model: ModelEntry, backend: BackendOnDevice, request: Request) -> tuple[int | None, str]:
    """The layer of the early exit, or why the exit that the file names is not used. Only this function decides it: a
    backend gets a layer that the model has, or none.
    """
    layer, n_layers = model.exit_layer, model.shape.n_layers
    if layer is None or request.speculation not in ("auto", "early-exit"):
        return None, ""
    if not 0 < layer < n_layers:
        return None, f"the model has {n_layers} layers and cannot stop after layer {layer}"
    if backend.no_early_exit:
        return None, backend.no_early_exit
    return (layer if backend.capabilities.early_exit else None), ""


def _taught(
    device: DeviceProfile, model: ModelEntry, artifact: Artifact, request: Request
) -> tuple[TaughtDraft | None, str]:
    """The draft that was taught to the model, with the vocabulary for this device, and why it is left out."""
    draft = model.draft
    if draft is None or request.speculation not in ("auto", draft.kind):
        return None, model.no_draft
    times = device.row_times.get(draft.key(artifact))
    best = sized(draft, model.shape, times)
    why = why_hopeless(best, model.shape, times) if request.speculation == "auto" else ""
    return (None, why) if why else (best, "")
