"""A plan as text and as JSON: what was chosen and why."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import PurePath

from edgeinfer.catalog.catalog import Catalog
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.plan.candidates import Candidate
from edgeinfer.plan.fit import reserve_bytes, tokens_per_s
from edgeinfer.plan.types import Estimate, Plan, Rejection, Request

__all__ = [
    "details",
    "device_to_json",
    "explain",
    "export_command",
    "list_refusals",
    "list_sources",
    "reasons",
    "rejection_to_json",
    "to_json",
    "too_slow",
]

_FITS = frozenset({"rank", "tier", "backend"})  # kinds of rejection of candidates that could run


def explain(plan: Plan) -> list[str]:
    """The choice, the reason, and what to expect: six lines, and more for an exported model. No markup."""
    cost, window = plan.estimate, plan.window
    about = "" if plan.artifact.exact else "about "
    several = f" for each of {plan.n_conversations} conversations" if plan.n_conversations > 1 else ""
    draft = f", draft model {_mb(cost.draft_bytes)}" if plan.draft else ""
    reached = f", {plan.reached_tokens_per_s:.0f} measured" if plan.reached_tokens_per_s else ""
    draft = f", taught draft {_mb(cost.draft_bytes)}" if plan.taught and not plan.draft else draft
    dirty = f" ({_mb(cost.dirty_bytes)} dirty)" if cost.packed_bytes else ""
    size = f"{about}{_mb(plan.artifact.n_bytes)}"
    return [
        f"model    {plan.model.title}, {plan.artifact.tier}, {size}, with {plan.backend} on {plan.device.name}",
        f"why      {plan.reasons[0]}",
        f"memory   {_mb(cost.total_bytes)} of {_mb(plan.budget_bytes)}{dirty}: weights {_mb(cost.weight_bytes)}, "
        f"K/V {_mb(cost.kv_bytes)} ({plan.kv_type}), workspace {_mb(cost.workspace_bytes)}{draft}",
        f"speed    about {plan.expected_tokens_per_s:.0f} tokens/s expected{reached}",
        f"context  {window.slots} tokens{several}: {window.sink} kept from the start, {window.window} recent"
        + _cost_of_short(plan),
        f"drafts   {plan.speculation.note}",
        *_export_lines(plan),
    ]


def export_command(plan: Plan) -> list[str]:
    """The words of the command that makes the planned bundle; [] where the plan opens a file as it is."""
    source = plan.artifact.made_from
    if source is None:
        return []
    model = plan.model.name if plan.model.in_catalog else source.repo or source.file
    out = f"{plan.model.name}-{plan.artifact.tier}"
    usual = plan.facts.preferred_kv_type(plan.device, plan.model.shape)
    kv_type = ["--kv-type", plan.kv_type] if plan.kv_type != usual else []
    tier = ["--tier", plan.artifact.tier, *kv_type]
    return ["edgeinfer", "export", model, *tier, "--device", plan.device.slug, "--out", out]


def _export_lines(plan: Plan) -> list[str]:
    cost, source = plan.estimate, plan.artifact.made_from
    lines = []
    if cost.packed_bytes:
        lines.append(f"disk     {_mb(cost.disk_bytes)}: the bundle, and a copy of its weights that the engine packs")
    if source is not None:
        lines.append(f"export   {shlex.join(export_command(plan))}")
        where = f" of {source.source}" if source.source else ""
        lines.append(f"from     {PurePath(source.file).name}{where}, {_mb(source.n_bytes)}")
    return lines


def details(plan: Plan) -> list[str]:
    """The other reasons, and the nearest alternatives. One line each, no markup."""
    lines = [f"why: {reason}" for reason in plan.reasons[1:]]
    refused = _nearest(plan)
    if refused:
        lines += ["", *(f"refused: {one.model} {one.tier} on {one.backend}: {one.reason}" for one in refused)]
    return lines


def _cost_of_short(plan: Plan) -> str:
    """What a context below 2048 costs in a longer chat: the perplexity of two models in docs/perplexity.md."""
    slots, limit = plan.window.slots, plan.window.limit
    if slots >= min(2048, limit):
        return ""
    cost = "about 10 %" if slots >= 1024 else "20 to 40 %"
    at_2048 = ", and 3 % with 2048 tokens" if limit > 2048 else ""
    return f"; a chat that outgrew it had {cost} more perplexity on two real models{at_2048}"


def list_refusals(plan: Plan) -> list[str]:
    """Everything that was not chosen, and why."""
    return [f"{one.model} {one.tier} on {one.backend}: {one.reason}" for one in plan.rejected]


def list_sources(plan: Plan) -> list[str]:
    """Where the figures of the plan come from."""
    device, model = plan.device, plan.model
    return [
        f"memory ceiling {_mb(device.ceiling_bytes)}: {device.ceiling_source}",
        f"memory bandwidth {_gb_per_s(device)}: {device.bandwidth_source}",
        f"rank {model.rank} of {model.title}: {model.rank_source or 'not stated'}",
    ]


def _nearest(plan: Plan) -> list[Rejection]:
    """For each model that ranks higher, the file that came nearest to being chosen; and a better file of the chosen
    model."""
    nearest: dict[str, Rejection] = {}
    for one in plan.rejected:
        elsewhere = one.model == plan.model.name and one.kind == "unavailable"  # the model itself runs
        if one.rank < plan.model.rank or one.kind in _FITS or elsewhere:
            continue
        held = nearest.get(one.model)
        if held is None or _distance(one) < _distance(held):
            nearest[one.model] = one
    return list(nearest.values())


def _distance(one: Rejection) -> float:
    """Sort key: first what is only too slow, then what is too large, by bytes, then what cannot be used at all."""
    if one.kind == "speed":
        return 0.0
    return one.over_bytes if one.kind == "memory" else float("inf")


def reasons(
    device: DeviceProfile,
    catalog: Catalog,
    chosen: Candidate,
    able: Sequence[Candidate],
    budget: int,
    floor: float,
    request: Request,
) -> tuple[str, ...]:
    """`able` is every candidate that could run, with its cost at the context at which it was judged."""
    lines = [_choice_line(chosen, budget, floor, request)]
    if chosen.tokens_per_s < floor:
        lines.append(too_slow(chosen.tokens_per_s, floor))
    lines.append(_budget_line(device, budget, request))
    lines.append(f"memory bandwidth {_gb_per_s(device)}")
    lines.append(_context_line(device, chosen, request))
    if not request.model:
        lines += _picks_line(device, catalog, chosen, able, budget, floor)
        lines += _slower_line(chosen, able, budget, floor)
    if chosen.draft is not None:
        lines.append(f"{_mb(chosen.estimate.draft_bytes)} are set aside for the draft model {chosen.draft.model.name}")
    return tuple(lines)


def too_slow(tokens_per_s: float, floor: float) -> str:
    return f"slow: about {tokens_per_s:.1f} tokens/s, below {floor:g}"


def _choice_line(chosen: Candidate, budget: int, floor: float, request: Request) -> str:
    if chosen.estimate.total_bytes > budget:
        over = chosen.estimate.total_bytes - budget
        return f"FORCED past the budget by {_mb(over)}: the system may end this process or slow to a crawl"
    if request.model:
        tier = "its best tier that fits at a usable speed"
        if request.tier:
            tier = "the tier that was asked for"
        elif chosen.artifact.package:
            tier = "the one that the package index has; --tier takes another"
        return f"{chosen.model.title} was asked for; {chosen.artifact.tier} is {tier}"
    return f"{chosen.model.title} ranks highest of what fits and decodes at {floor:g} tokens/s or more"


def _budget_line(device: DeviceProfile, budget: int, request: Request) -> str:
    kept = f"less {_mb(reserve_bytes(device))} kept free"
    if request.others_bytes:
        kept += f" and {_mb(request.others_bytes)} for other models"
    if device.ceiling_bytes <= device.available_bytes:
        return f"budget {_mb(budget)}: one process may take {_mb(device.ceiling_bytes)}, {kept}"
    return f"budget {_mb(budget)}: {_mb(device.available_bytes)} available, {kept}"


def _context_line(device: DeviceProfile, chosen: Candidate, request: Request) -> str:
    slots, kv_bytes = chosen.window.slots, chosen.estimate.kv_bytes / chosen.n_conversations
    full = tokens_per_s(device, chosen.model.shape, chosen.artifact, kv_bytes)
    speed = f"about {full:.1f} tokens/s when it is full"
    if request.context is not None:
        rounded = f", rounded down from {request.context}" if slots != request.context else ""
        return f"context of {slots} tokens as requested{rounded}; {speed}"
    if slots == chosen.window.limit:
        return f"context of {slots} tokens, the most that the model allows; {speed}"
    return (
        f"context of {slots} tokens: the next larger one would not fit in memory, or would slow a full chat "
        f"by more than 20 %; {speed}"
    )


def _picks_line(
    device: DeviceProfile,
    catalog: Catalog,
    chosen: Candidate,
    able: Sequence[Candidate],
    budget: int,
    floor: float,
) -> list[str]:
    """What `models.toml` recommends for this amount of memory, and whether it was chosen here."""
    gib = round(device.total_bytes / 2**30)
    row = max((pick for pick in catalog.picks if pick.gb <= gib), key=lambda pick: pick.gb, default=None)
    if row is None:
        return []
    found = []
    for name in row.models:
        of_it = [one for one in able if one.model.name == name and one.artifact.tier in row.tiers]
        if of_it:
            least = min(of_it, key=lambda one: one.estimate.total_bytes)
            found.append(f"{least.model.title} {least.artifact.tier} ({_fate(least, chosen, budget, floor)})")
    return [f"models.toml for {row.gb} GB: {', '.join(found)}"] if found else []


def _fate(one: Candidate, chosen: Candidate, budget: int, floor: float) -> str:
    over = one.estimate.total_bytes - budget
    if one.model.name == chosen.model.name:
        return "chosen" if one.artifact.tier == chosen.artifact.tier else f"chosen as {chosen.artifact.tier}"
    if over > 0:
        return f"{_mb(over)} too large"
    if one.tokens_per_s < floor:
        return f"fits, but {one.tokens_per_s:.1f} tokens/s"
    return "fits, ranks lower"


def _slower_line(chosen: Candidate, able: Sequence[Candidate], budget: int, floor: float) -> list[str]:
    """The two best models that fit but decode below the minimum speed, for users who can wait."""
    slower: dict[str, Candidate] = {}
    for one in able:
        if one.model.rank > chosen.model.rank and one.estimate.total_bytes <= budget and one.tokens_per_s < floor:
            held = slower.get(one.model.name)
            if held is None or one.tokens_per_s > held.tokens_per_s:
                slower[one.model.name] = one
    best = sorted(slower.values(), key=lambda one: -one.model.rank)[:2]
    return [
        f"larger but slower: {one.model.title} {one.artifact.tier}, about {one.tokens_per_s:.1f} tokens/s "
        f"(--model {one.model.name})"
        for one in best
    ]


def _mb(n_bytes: float) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"


def _gb_per_s(device: DeviceProfile) -> str:
    return f"{device.bandwidth_bytes_per_s / 1e9:.0f} GB/s"


def rejection_to_json(rejection: Rejection) -> dict[str, object]:
    return {
        "model": rejection.model,
        "tier": rejection.tier,
        "backend": rejection.backend,
        "kind": rejection.kind,
        "reason": rejection.reason,
        "over_bytes": rejection.over_bytes,
    }


def to_json(plan: Plan) -> dict[str, object]:
    """Everything that the plan decided and why, as plain values; sizes are in bytes."""
    artifact, window, cost = plan.artifact, plan.window, plan.estimate
    return {
        "device": device_to_json(plan.device) | {"named": plan.device.named},
        "budget_bytes": plan.budget_bytes,
        "model": {
            "name": plan.model.name,
            "title": plan.model.title,
            "license": plan.model.license,
            "rank": plan.model.rank,
            "rank_source": plan.model.rank_source,
        },
        "artifact": {
            "tier": artifact.tier,
            "n_bytes": artifact.n_bytes,
            "exact": artifact.exact,
            "repo": artifact.repo,
            "package": artifact.package,
            "file": artifact.file,
            "revision": artifact.revision,
            "sha256": artifact.sha256,
            "embedded": artifact.embedded,
        },
        "export": _export_to_json(plan),
        "files": [
            {"role": one.role, "model": one.model.name, "tier": one.artifact.tier, "n_bytes": one.artifact.n_bytes}
            for one in plan.files
        ],
        "backend": plan.backend,
        "n_conversations": plan.n_conversations,
        "window": {
            "context": window.slots,
            "window": window.window,
            "sink": window.sink,
            "block": window.block,
            "limit": window.limit,
            "kv_type": plan.kv_type,
        },
        "n_threads": plan.n_threads,
        "estimate": _estimate_to_json(cost),
        "expected_tokens_per_s": round(plan.expected_tokens_per_s, 2),
        "reached_tokens_per_s": round(plan.reached_tokens_per_s, 2) or None,
        "speculation": {
            "mode": plan.speculation.mode,
            "drafters": list(plan.speculation.drafters),
            "exit_layer": plan.speculation.exit_layer,
            "max_rows": plan.speculation.max_rows,
            "note": plan.speculation.note,
        },
        "reasons": list(plan.reasons),
        "rejected": [rejection_to_json(one) for one in plan.rejected],
        "forced": plan.forced,
    }


def _estimate_to_json(cost: Estimate) -> dict[str, int]:
    return {
        "weight_bytes": cost.weight_bytes,
        "kv_bytes": cost.kv_bytes,
        "workspace_bytes": cost.workspace_bytes,
        "draft_bytes": cost.draft_bytes,
        "total_bytes": cost.total_bytes,
        "dirty_bytes": cost.dirty_bytes,
        "disk_bytes": cost.disk_bytes,
    }


def _export_to_json(plan: Plan) -> dict[str, object] | None:
    """How the bundle is made; None where the plan opens a file as it is."""
    source = plan.artifact.made_from
    if source is None:
        return None
    return {
        "command": export_command(plan),
        "tier": source.tier,
        "n_bytes": source.n_bytes,
        "repo": source.repo,
        "package": source.package,
        "file": source.file,
    }


def device_to_json(device: DeviceProfile) -> dict[str, object]:
    return {
        "name": device.name,
        "os": device.os,
        "chip": device.chip,
        "cpu_features": sorted(device.cpu_features),
        "n_cores": device.n_cores,
        "total_bytes": device.total_bytes,
        "available_bytes": device.available_bytes,
        "ceiling_bytes": device.ceiling_bytes,
        "ceiling_source": device.ceiling_source,
        "bandwidth_bytes_per_s": device.bandwidth_bytes_per_s,
        "bandwidth_source": device.bandwidth_source,
        "accelerators": sorted(device.accelerators),
    }
