"""Every model, tier and backend that could run, each judged against one device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edgeinfer.catalog.catalog import Catalog
from edgeinfer.catalog.entry import Artifact, ModelEntry, ModelShape, Tier
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.errors import UsageError
from edgeinfer.plan.context import DEFAULT_CONTEXT, make_policy
from edgeinfer.plan.estimate import estimate
from edgeinfer.plan.speed import expected_tokens_per_s
from edgeinfer.plan.types import Capabilities, Estimate, Rejection, Request
from edgeinfer.types import MIXED, KvType
from edgeinfer.window import WindowPolicy

__all__ = ["Candidate", "budget_bytes", "candidates", "reserve_bytes", "wanted_context"]

_LONG_CONTEXT = 32768  # what `--prefer context` asks for
_KV_BLOCK = 32  # values that share a scale in q8_0 and q4_0


@dataclass(frozen=True, slots=True)
class Candidate:
    """Something that this machine's backends can run, with what it costs at the wanted context."""

    model: ModelEntry
    artifact: Artifact
    capabilities: Capabilities
    tier_order: int
    kv_type: KvType
    window: WindowPolicy
    estimate: Estimate
    tokens_per_s: float

    @property
    def key(self) -> tuple[int, bool, int, float]:
        """Quality first, then a file of the package index (within reach wherever edgeinfer was), the tier, speed."""
        return (self.model.rank, bool(self.artifact.package), self.tier_order, self.tokens_per_s)

    def rejected(self, reason: str, over_bytes: int = 0) -> Rejection:
        return Rejection(
            self.model.name, self.artifact.tier, self.artifact.backend, reason, over_bytes, self.model.rank
        )


def reserve_bytes(device: DeviceProfile) -> int:
    """What a plan leaves free: a twelfth.

    On a 24 GB Mac a plan 0.8 GB below Metal's ceiling ran out of memory, and one 1.6 GB below it ran.
    """
    return max(256 << 20, min(device.ceiling_bytes, device.available_bytes) // 12)


def budget_bytes(device: DeviceProfile) -> int:
    return max(0, min(device.ceiling_bytes, device.available_bytes) - reserve_bytes(device))


def wanted_context(model: ModelEntry, request: Request) -> int:
    """The context that must fit for this model to count; the chosen one gets more where there is room."""
    if request.context is not None:
        return request.context
    usual = _LONG_CONTEXT if request.prefer == "context" else DEFAULT_CONTEXT
    return min(max(usual, 2 * (request.sink or 0)), model.shape.limit)


def candidates(
    device: DeviceProfile, catalog: Catalog, capabilities: Sequence[Capabilities], request: Request
) -> Iterator[Candidate | Rejection]:
    """Each artifact of each wanted model that `request` does not exclude by name, tier or backend."""
    by_backend = {found.backend: found for found in capabilities}
    for model in reversed(catalog.models):
        if request.model and model.name != request.model:
            continue
        for artifact in model.artifacts:
            if (request.tier and artifact.tier != request.tier) or artifact.backend not in by_backend:
                continue
            if not request.backend or artifact.backend == request.backend:
                tier = catalog.tiers.get(artifact.tier)
                yield _judge(device, model, artifact, by_backend[artifact.backend], tier, request)


def _judge(
    device: DeviceProfile,
    model: ModelEntry,
    artifact: Artifact,
    found: Capabilities,
    tier: Tier | None,
    request: Request,
) -> Candidate | Rejection:
    def refuse(reason: str) -> Rejection:
        return Rejection(model.name, artifact.tier, artifact.backend, reason, rank=model.rank)

    if found.unavailable:
        return refuse(f"{found.backend} cannot run here: {found.unavailable}")
    if tier and artifact.tier not in found.tiers:  # of a tier that nobody knows, the engine has the last word
        return refuse(f"{found.backend} does not load {artifact.tier}")
    kv_type = request.kv_type or _preferred_kv_type(device, found, model.shape)
    if kv_type not in found.kv_types:
        return refuse(f"{found.backend} does not keep K and V as {kv_type}")
    try:
        window = make_policy(model.shape, wanted_context(model, request), request.sink)
    except UsageError as error:
        return refuse(str(error))
    return Candidate(
        model=model,
        artifact=artifact,
        capabilities=found,
        tier_order=tier.order if tier else 0,
        kv_type=kv_type,
        window=window,
        estimate=estimate(model.shape, artifact, window, kv_type, exits=may_exit(model, found, request)),
        tokens_per_s=expected_tokens_per_s(device, model.shape, artifact),
    )


def may_exit(model: ModelEntry, found: Capabilities, request: Request) -> bool:
    """Whether the model may draft with its early layers."""
    return found.early_exit and model.exit_layer is not None and request.speculation in ("auto", "early-exit")


def _preferred_kv_type(device: DeviceProfile, found: Capabilities, shape: ModelShape) -> KvType:
    """The backend's first choice whose blocks fit the heads; f16 for llama.cpp on Metal, where other types are slow."""
    if found.backend == "gguf" and "metal" in device.accelerators and "f16" in found.kv_types:
        return "f16"
    whole = all(group.head_dim % _KV_BLOCK == 0 for group in shape.kv)
    able = [kind for kind in found.kv_types if whole or kind in ("f16", "f32")] or [*found.kv_types]
    if "avx2" not in device.cpu_features and able[0] == MIXED and len(able) > 1:
        return able[1]  # elsewhere its gain is not measured, and its bytes are
    return able[0]
