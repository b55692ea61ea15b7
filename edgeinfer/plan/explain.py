"""A plan in plain lines for a person."""

from __future__ import annotations

from edgeinfer.plan.types import Plan

__all__ = ["explain"]


def explain(plan: Plan) -> list[str]:
    """What was picked, why, what it costs and what was refused; a line each, no markup."""
    cost = plan.estimate
    lines = [
        f"{plan.model.title}, {plan.artifact.tier}, on {plan.backend}",
        f"device: {plan.device.name}",
        f"memory: {_mb(cost.total_bytes)} = weights {_mb(cost.weight_bytes)} + K/V {_mb(cost.kv_bytes)} "
        f"+ workspace {_mb(cost.workspace_bytes)}; budget {_mb(plan.budget_bytes)}",
        f"speed: about {plan.expected_tokens_per_s:.0f} tokens/s",
        f"context: {plan.window.slots} tokens ({plan.window.sink} kept from the start, {plan.window.window} recent)",
    ]
    lines += [f"why: {reason}" for reason in plan.reasons]
    lines += [
        f"refused: {one.model} {one.tier} on {one.backend}: {one.reason}"
        for one in plan.rejected
        if not one.reason.startswith("fits")
    ]
    return lines


def _mb(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"
