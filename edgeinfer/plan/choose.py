"""`make_plan`: the one function that recommends, refuses and is loaded. Pure; imports no engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from edgeinfer.catalog.catalog import Catalog
from edgeinfer.catalog.entry import ModelEntry
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.errors import BackendUnavailable, ModelNotFound, NoPlanFits, UsageError
from edgeinfer.plan.as_json import rejection_to_json
from edgeinfer.plan.candidates import Candidate, budget_bytes, candidates, may_exit
from edgeinfer.plan.context import check_context, make_policy, steps
from edgeinfer.plan.estimate import estimate
from edgeinfer.plan.reasons import reasons
from edgeinfer.plan.speculation import DrafterFacts, plan_speculation
from edgeinfer.plan.speed import expected_tokens_per_s
from edgeinfer.plan.types import Capabilities, Plan, Rejection, Request

__all__ = ["make_plan"]

_FULL_WINDOW_SPEED = 0.8  # a window is not grown so far that, full, it decodes below this share of a short chat's speed


def make_plan(
    device: DeviceProfile,
    catalog: Catalog,
    capabilities: Sequence[Capabilities],
    request: Request,
    *,
    drafters: Sequence[DrafterFacts] = (),
) -> Plan:
    """The best model, tier, backend and window for `device`, with the reason and with everything that was refused.

    Quality (`rank`) comes first among what fits the budget with the wanted context and decodes at a usable speed; then
    the tier; then the faster backend. `drafters` are those that the decoder has; without any it decodes plainly.
    Raises ModelNotFound, UsageError, BackendUnavailable, NoPlanFits.
    """
    request = _checked(catalog, capabilities, request)
    draft_bytes = _draft_bytes(device, catalog, capabilities, request)
    budget = max(0, budget_bytes(device) - draft_bytes)
    judged = list(candidates(device, catalog, capabilities, request))
    able = [one for one in judged if isinstance(one, Candidate)]
    refused = [one for one in judged if isinstance(one, Rejection)]
    if not able:
        raise _nothing_can_run(request, capabilities, refused)
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
    chosen = best if forced or request.context is not None else _grown(device, best, budget, floor, request)
    return Plan(
        device=device,
        budget_bytes=budget,
        model=chosen.model,
        artifact=chosen.artifact,
        backend=chosen.artifact.backend,
        window=chosen.window,
        kv_type=chosen.kv_type,
        n_threads=device.n_cores if device.named else 0,
        speculation=plan_speculation(device, chosen, request, drafters),
        estimate=chosen.estimate,
        expected_tokens_per_s=chosen.tokens_per_s,
        reasons=(
            *reasons(device, catalog, chosen, able, budget, floor, request),
            *(
                [f"{draft_bytes / 1e6:,.0f} MB are set aside for the draft model {request.draft_model}"]
                * bool(draft_bytes)
            ),
        ),
        rejected=tuple(rejected),
        forced=forced,
    )


def _checked(catalog: Catalog, capabilities: Sequence[Capabilities], request: Request) -> Request:
    """`request` with the model's own name, after a look at each name that the person gave."""
    if request.backend and request.backend not in {found.backend for found in capabilities}:
        known = ", ".join(found.backend for found in capabilities)
        raise UsageError(f"unknown backend: {request.backend}", hint=f"backends here: {known}")
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


def _known_model(catalog: Catalog, name: str) -> ModelEntry:
    model = catalog.find(name)
    if model is None:
        near = catalog.near(name)
        hints = [catalog.explain_missing(name), f"near names: {', '.join(near)}" if near else ""]
        raise ModelNotFound(f"no model named {name}", hint="; ".join(hint for hint in hints if hint))
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


def _draft_bytes(
    device: DeviceProfile, catalog: Catalog, capabilities: Sequence[Capabilities], request: Request
) -> int:
    """Weights and K/V of the draft model, as it would be opened beside the target; 0 without one."""
    if not request.draft_model or request.speculation == "off":
        return 0
    draft = _known_model(catalog, request.draft_model)
    alone = Request(model=draft.name, tier=request.draft_tier, backend=request.backend, speculation="off")
    cost = make_plan(device, catalog, capabilities, alone).estimate
    return cost.weight_bytes + cost.kv_bytes


def _floor(fitting: Sequence[Candidate], request: Request) -> float:
    """Tokens per second below which a model is not picked unasked."""
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
        window = make_policy(shape, context, request.sink)
        exits = may_exit(best.model, best.capabilities, request)
        cost = estimate(shape, best.artifact, window, best.kv_type, exits=exits)
        full = expected_tokens_per_s(device, shape, best.artifact, cost.kv_bytes)
        slow = full < max(floor, _FULL_WINDOW_SPEED * best.tokens_per_s) and request.prefer != "context"
        if cost.total_bytes <= budget and not slow:
            return replace(best, window=window, estimate=cost)
    return best


def _rejections(able: Sequence[Candidate], usable: Sequence[Candidate], budget: int, floor: float) -> list[Rejection]:
    """Why each candidate but the best is not it."""
    best = max(usable, key=lambda one: one.key) if usable else None
    rejected = []
    for one in able:
        over = one.estimate.total_bytes - budget
        if one is best:
            continue
        if over > 0:
            rejected.append(one.rejected(f"needs {over / 1e6:,.0f} MB more than the budget", over))
        elif one.tokens_per_s < floor:
            rejected.append(one.rejected(f"too slow: {one.tokens_per_s:.1f} tokens/s, below {floor:g}"))
        elif best is None or one.model.rank != best.model.rank:
            rejected.append(one.rejected("fits, but ranks lower"))
        elif best.artifact.package and not one.artifact.package:
            rejected.append(one.rejected(f"fits, but {best.artifact.tier} needs no model hub; --tier takes this one"))
        elif one.tier_order != best.tier_order:
            rejected.append(one.rejected(f"fits, but {best.artifact.tier} keeps more of the model"))
        else:
            rejected.append(one.rejected(f"fits, but {best.artifact.backend} is faster"))
    return rejected


def _nothing_can_run(
    request: Request, capabilities: Sequence[Capabilities], refused: Sequence[Rejection]
) -> BackendUnavailable | NoPlanFits:
    missing = [found for found in capabilities if found.unavailable]
    needed = {one.backend for one in refused}
    if needed and needed <= {found.backend for found in missing}:
        hint = next((found.hint for found in missing if found.backend in needed and found.hint), "")
        return BackendUnavailable("; ".join(sorted({one.reason for one in refused})), hint=hint)
    wanted = " ".join(word for word in (request.model, request.tier, request.backend) if word) or "any model"
    absent = {found.backend for found in missing}
    reason = next((f": {one.reason}" for one in reversed(refused) if one.backend not in absent), "")
    hint = next((found.hint for found in missing if found.hint), "") if not reason else ""
    if request.kv_type and not hint:
        hint = "without --kv-type each backend takes its own"
    return NoPlanFits(
        f"nothing here can run {wanted}{reason}",
        hint=hint or "`edgeinfer doctor` says what each backend found",
        rejected=tuple(map(rejection_to_json, refused)),
    )


def _nothing_fits(
    device: DeviceProfile,
    able: Sequence[Candidate],
    budget: int,
    floor: float,
    rejected: Sequence[Rejection],
) -> NoPlanFits:
    least = min(able, key=lambda one: one.estimate.total_bytes)
    over = least.estimate.total_bytes - budget
    listed = tuple(map(rejection_to_json, rejected))
    if over > 0:
        what = f"{least.model.name} {least.artifact.tier}"
        message = f"{what} needs {over / 1e6:,.0f} MB more than the {budget / 1e6:,.0f} MB that {device.name} can give"
        smaller = _smaller(least, budget)
        return NoPlanFits(message, hint=f"try {smaller}, or --force", rejected=listed)
    fastest = max((one for one in able if one.estimate.total_bytes <= budget), key=lambda one: one.tokens_per_s)
    return NoPlanFits(
        f"nothing that fits decodes at {floor:g} tokens/s; {fastest.model.name} comes nearest "
        f"with {fastest.tokens_per_s:.1f}",
        hint=f"--min-speed {max(0.1, fastest.tokens_per_s * 0.9):.1f}",
        rejected=listed,
    )


def _smaller(one: Candidate, budget: int) -> str:
    """What would make it fit: the largest smaller context that does, else another model."""
    shape = one.model.shape
    for context in (2048, 1024, 512):
        if context < one.window.slots:
            window = make_policy(shape, context, None)
            if estimate(shape, one.artifact, window, one.kv_type).total_bytes <= budget:
                return f"--context {context}"
    return "a smaller model"
