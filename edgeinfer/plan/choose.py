"""`make_plan`: the one function that recommends a model and guards its loading. Pure; imports no engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from edgeinfer.catalog.catalog import Catalog
from edgeinfer.catalog.entry import ModelEntry
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.errors import BackendError, ModelNotFoundError, NoPlanError, UsageError
from edgeinfer.plan.candidates import BackendOnDevice, Candidate, candidates, on_device, with_exports
from edgeinfer.plan.facts import BackendFacts, Probe
from edgeinfer.plan.fit import (
    DEFAULT_CONTEXT,
    budget_bytes,
    check_context,
    expected_tokens_per_s,
    make_policy,
    steps,
    tokens_per_s,
)
from edgeinfer.plan.report import reasons, rejection_to_json
from edgeinfer.plan.speculation import DrafterFacts, plan_speculation
from edgeinfer.plan.types import Plan, Rejection, Request

__all__ = ["make_plan"]

_FULL_WINDOW_SPEED = 0.8  # a full window must decode at no less than this share of a short chat's speed
_NOTHING_PROBED: Mapping[str, Probe] = {}
_MAX_CONVERSATIONS = 256
_PLAN_WITHOUT_MODEL = "without a model's name, the plan takes one that runs there"


def make_plan(
    device: DeviceProfile,
    catalog: Catalog,
    facts: Sequence[BackendFacts],
    request: Request,
    *,
    drafters: Sequence[DrafterFacts] = (),
    probes: Mapping[str, Probe] = _NOTHING_PROBED,
) -> Plan:
    """The best model, tier, backend and window for `device`, with the reason and everything that was refused.

    Quality (`rank`) comes first among what fits the budget with the wanted context and decodes at a usable speed; then
    the tier; then the faster backend. `drafters` are those that the decoder has; without any it decodes plainly.
    `probes` says, by backend, what is installed; without a probe, as for a named device, a backend counts as installed.
    Raises ModelNotFoundError, UsageError, BackendError, NoPlanError.
    """
    catalog = with_exports(device, catalog, facts)
    request = _checked(catalog, facts, request)
    backends = [on_device(device, one, probes.get(one.name, Probe())) for one in facts]
    drafts = _drafts(device, catalog, backends, probes, request)
    budget = budget_bytes(device, request.others_bytes or 0)
    judged = list(candidates(device, catalog, backends, request, drafts))
    able = [one for one in judged if isinstance(one, Candidate)]
    refused = [one for one in judged if isinstance(one, Rejection)]
    if not able:
        raise _nothing_can_run(device, catalog, request, backends, refused)
    fitting = [one for one in able if one.estimate.total_bytes <= budget]
    floor = _floor(fitting, request)
    usable = [one for one in fitting if one.tokens_per_s >= floor]
    if not usable and request.model and fitting:
        usable = [max(fitting, key=lambda one: one.tokens_per_s)]
    forced = not usable and request.force
    if forced:
        usable = [min(able, key=lambda one: one.estimate.total_bytes)]
    rejected = [*refused, *_rejections(able, usable, budget, floor)]
    if not usable:
        raise _nothing_fits(device, able, budget, floor, rejected)
    best = max(usable, key=lambda one: one.key)
    chosen = _grown(device, best, budget, floor, request) if request.may_grow and not forced else best
    return Plan(
        device=device,
        budget_bytes=budget,
        model=chosen.model,
        artifact=chosen.artifact,
        facts=chosen.facts,
        window=chosen.window,
        kv_type=chosen.kv_type,
        n_threads=_threads(device, chosen.facts, request),
        speculation=plan_speculation(device, chosen, request, drafters),
        estimate=chosen.estimate,
        expected_tokens_per_s=expected_tokens_per_s(device, chosen.model.shape, chosen.artifact),
        reached_tokens_per_s=device.reached.get(chosen.artifact.key, 0.0),
        min_tokens_per_s=floor,
        reasons=reasons(device, catalog, chosen, able, budget, floor, request),
        rejected=tuple(rejected),
        forced=forced,
        n_conversations=request.conversations,
        draft=chosen.draft,
        taught=chosen.taught,
    )


def _checked(catalog: Catalog, facts: Sequence[BackendFacts], request: Request) -> Request:
    """`request` with the names as the catalog spells them. Raises UsageError, ModelNotFoundError."""
    if request.backend and request.backend not in {one.name for one in facts}:
        known = ", ".join(one.name for one in facts)
        raise UsageError(f"unknown backend: {request.backend}", hint=f"the backends are {known}")
    if not 1 <= request.conversations <= _MAX_CONVERSATIONS:
        raise UsageError(
            f"conversations must be from 1 to {_MAX_CONVERSATIONS}; received {request.conversations}",
            hint="1 is a single chat",
        )
    if request.context is not None:
        check_context(request.context, request.sink)
    if not request.model:
        _check_context_of_any(catalog, request)
        return replace(request, tier=_known_tier(request.tier, catalog.models, "no model has"))
    model = _known_model(catalog, request.model)
    tier = _known_tier(request.tier, [model], f"{model.name} has no")
    if request.context is not None:
        make_policy(model.shape, request.context, request.sink)
    return replace(request, model=model.name, tier=tier)


def _threads(device: DeviceProfile, facts: BackendFacts, request: Request) -> int:
    """Plan.n_threads. Raises UsageError for a number that this device or backend cannot take."""
    if not request.threads:
        return device.n_cores if device.named else 0
    if not facts.takes_threads:
        raise UsageError(
            f"the {facts.name} backend chooses its own threads",
            hint="leave the number of threads out, or name another backend",
        )
    if not 1 <= request.threads <= device.n_cores:
        raise UsageError(
            f"threads must be from 1 to {device.n_cores}, the cores of the device; received {request.threads}"
        )
    return request.threads


def _drafts(
    device: DeviceProfile,
    catalog: Catalog,
    backends: Sequence[BackendOnDevice],
    probes: Mapping[str, Probe],
    request: Request,
) -> Mapping[str, Plan] | None:
    """The plan of the draft model for each backend that can run it beside the target; None without a draft model.

    Raises what `make_plan` raises for a draft model that no backend can run.
    """
    if not request.draft_model or request.speculation not in ("auto", "draft"):
        return None
    model = _known_model(catalog, request.draft_model)
    drafts = {}
    failed: NoPlanError | BackendError | None = None
    for backend in backends:
        name = backend.facts.name
        if backend.unavailable or request.backend not in ("", name):
            continue
        alone = Request(
            model=model.name,
            tier=request.draft_tier,
            backend=name,
            context=min(DEFAULT_CONTEXT, model.shape.limit),  # the decoder gives a draft model a short window
            speculation="off",
            conversations=request.conversations,
        )
        try:
            drafts[name] = make_plan(device, catalog, [backend.facts], alone, probes=probes)
        except (NoPlanError, BackendError) as error:
            failed = failed or error
    if not drafts and failed is not None:
        raise failed
    return drafts


def _known_model(catalog: Catalog, name: str) -> ModelEntry:
    model = catalog.find(name)
    if model is None:
        near = catalog.near(name)
        hints = [catalog.explain_missing(name), f"near names: {', '.join(near)}" if near else ""]
        raise ModelNotFoundError(f"no model named {name}", hint="; ".join(hint for hint in hints if hint))
    return model


def _known_tier(tier: str, models: Sequence[ModelEntry], nobody_has: str) -> str:
    """`tier` as these models' files spell it; "" stays. Raises UsageError for one that none of them has."""
    tiers = {artifact.tier for model in models for artifact in model.artifacts}
    found = next((known for known in tiers if known.lower() == tier.lower()), "")
    if tier and not found:
        there = ", ".join(sorted(tiers))
        raise UsageError(
            f"{nobody_has} files of tier {tier}", hint=f"it has {there}" if len(models) == 1 else f"there are {there}"
        )
    return found


def _check_context_of_any(catalog: Catalog, request: Request) -> None:
    longest = max((model.shape.limit for model in catalog.models), default=0)
    if longest and request.context is not None and request.context > longest:
        raise UsageError(f"no model has {request.context} positions", hint=f"--context {longest} is the largest")


def _floor(fitting: Sequence[Candidate], request: Request) -> float:
    """Tokens per second below which a model is chosen only by name."""
    least = request.min_tokens_per_s
    if request.prefer == "quality":
        return min(least, 2.0)
    if request.prefer == "speed" and any(one.tokens_per_s >= 3 * least for one in fitting):
        return 3 * least
    return least


def _grown(device: DeviceProfile, best: Candidate, budget: int, floor: float, request: Request) -> Candidate:
    """`best` with the largest window that fits the budget and does not slow decoding much when it is full."""
    shape = best.model.shape
    for context in reversed([size for size in steps(shape) if size > best.window.slots]):
        grown = best.with_window(make_policy(shape, context, request.sink))
        full = tokens_per_s(device, shape, best.artifact, grown.estimate.kv_bytes / request.conversations)
        slow = full < max(floor, _FULL_WINDOW_SPEED * best.tokens_per_s) and request.prefer != "context"
        if grown.estimate.total_bytes <= budget and not slow:
            return grown
    return best


def _rejections(able: Sequence[Candidate], usable: Sequence[Candidate], budget: int, floor: float) -> list[Rejection]:
    """Why each other candidate was not chosen."""
    best = max(usable, key=lambda one: one.key) if usable else None
    rejected = []
    for one in able:
        over = one.estimate.total_bytes - budget
        if one is best:
            continue
        if over > 0:
            rejected.append(one.rejected("memory", f"needs {over / 1e6:,.0f} MB more than the budget", over))
        elif one.tokens_per_s < floor:
            rejected.append(one.rejected("speed", f"too slow: {one.tokens_per_s:.1f} tokens/s, below {floor:g}"))
        elif best is None or one.model.rank != best.model.rank:
            rejected.append(one.rejected("rank", "fits, but ranks lower"))
        elif best.artifact.package and not one.artifact.package:
            reason = f"fits, but {best.artifact.tier} needs no model hub; --tier takes this one"
            rejected.append(one.rejected("tier", reason))
        elif one.tier_order != best.tier_order:
            rejected.append(one.rejected("tier", f"fits, but {best.artifact.tier} keeps more of the model"))
        else:
            rejected.append(one.rejected("backend", f"fits, but {best.artifact.backend} is faster"))
    return rejected


def _nothing_can_run(
    device: DeviceProfile,
    catalog: Catalog,
    request: Request,
    backends: Sequence[BackendOnDevice],
    refused: Sequence[Rejection],
) -> BackendError | NoPlanError:
    absent = {backend.facts.name: backend for backend in backends if backend.unavailable}
    needed = {one.backend for one in refused}
    if needed and needed <= absent.keys():
        hint = next((absent[name].hint for name in sorted(needed) if absent[name].hint), "")
        return BackendError("; ".join(sorted({one.reason for one in refused})), hint=hint)
    wanted = " ".join(word for word in (request.model, request.tier, request.backend) if word) or "any model"
    reason = next((f": {one.reason}" for one in reversed(refused) if one.backend not in absent), "")
    if not refused and (model := catalog.find(request.model)):
        has = ", ".join(dict.fromkeys(file.backend for file in model.artifacts))
        reason = f": its files are for {has}, not for {request.backend}"
        return NoPlanError(f"no backend can run {wanted}{reason}", hint=f"use --backend {model.artifacts[0].backend}")
    hint = next((backend.hint for backend in absent.values() if backend.hint), "") if not reason else ""
    if request.kv_type and not hint:
        hint = "without --kv-type each backend takes its own"
    return NoPlanError(
        f"no backend can run {wanted}{reason}",
        hint=hint or (_PLAN_WITHOUT_MODEL if device.named else "`edgeinfer doctor` says what each backend found"),
        rejected=tuple(map(rejection_to_json, refused)),
    )


def _nothing_fits(
    device: DeviceProfile,
    able: Sequence[Candidate],
    budget: int,
    floor: float,
    rejected: Sequence[Rejection],
) -> NoPlanError:
    least = min(able, key=lambda one: one.estimate.total_bytes)
    over = least.estimate.total_bytes - budget
    listed = tuple(map(rejection_to_json, rejected))
    if over > 0:
        what = f"{least.model.name} {least.artifact.tier}"
        message = f"{what} needs {over / 1e6:,.0f} MB more than the {budget / 1e6:,.0f} MB that {device.name} can give"
        if device.ceiling_bytes < device.total_bytes and not device.named:
            message += f": {device.ceiling_source}"
        smaller = _smaller(least, budget)
        return NoPlanError(message, hint=f"try {smaller}, or --force", rejected=listed)
    fastest = max((one for one in able if one.estimate.total_bytes <= budget), key=lambda one: one.tokens_per_s)
    return NoPlanError(
        f"nothing that fits decodes at {floor:g} tokens/s; {fastest.model.name} comes nearest "
        f"with {fastest.tokens_per_s:.1f}",
        hint=f"--min-speed {max(0.1, fastest.tokens_per_s * 0.9):.1f}",
        rejected=listed,
    )


def _smaller(one: Candidate, budget: int) -> str:
    """What would make it fit: the largest context that does, or another model."""
    for context in (2048, 1024, 512):
        if context < one.window.slots:
            smaller = one.with_window(make_policy(one.model.shape, context, None))
            if smaller.estimate.total_bytes <= budget:
                return f"--context {context}"
    return "a smaller model"
