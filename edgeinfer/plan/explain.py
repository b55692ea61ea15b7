"""A plan in plain lines for a person."""

from __future__ import annotations

from edgeinfer.plan.types import Plan, Rejection

__all__ = ["explain"]


def explain(plan: Plan) -> list[str]:
    """What was picked, why, what it costs and what was refused; a line each, no markup."""
    cost, window = plan.estimate, plan.window
    about = "" if plan.artifact.exact else "about "
    lines = [
        f"model    {plan.model.title}, {plan.artifact.tier}, {about}{_mb(plan.artifact.n_bytes)}",
        f"backend  {plan.backend}",
        f"device   {plan.device.name}",
        f"memory   {_mb(cost.total_bytes)} of {_mb(plan.budget_bytes)}: weights {_mb(cost.weight_bytes)}, "
        f"K/V {_mb(cost.kv_bytes)} ({plan.kv_type}), workspace {_mb(cost.workspace_bytes)}",
        f"speed    about {plan.expected_tokens_per_s:.0f} tokens/s",
        f"context  {window.slots} tokens: {window.sink} kept from the start, {window.window} recent",
        f"drafts   {plan.speculation.note}",
        "",
        *(f"why: {reason}" for reason in plan.reasons),
    ]
    refused = _worth_telling(plan)
    if refused:
        lines += ["", *(f"refused: {one.model} {one.tier} on {one.backend}: {one.reason}" for one in refused)]
    return lines


def _worth_telling(plan: Plan) -> list[Rejection]:
    """For each better model the tier that came nearest, and better tiers of the chosen one; `--json` has them all."""
    nearest: dict[str, Rejection] = {}
    for one in plan.rejected:
        if one.rank < plan.model.rank or one.reason.startswith("fits"):
            continue
        held = nearest.get(one.model)
        if held is None or _distance(one) < _distance(held):
            nearest[one.model] = one
    return list(nearest.values())


def _distance(one: Rejection) -> float:
    """How far it was from being chosen: first what is only slow, then by bytes, last what cannot run here at all."""
    if one.over_bytes:
        return one.over_bytes
    return 0.0 if one.reason.startswith("too slow") else float("inf")


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
