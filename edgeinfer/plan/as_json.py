"""A plan as `--json` shows it."""

from __future__ import annotations

from edgeinfer.device.profile import DeviceProfile
from edgeinfer.plan.types import Plan, Rejection

__all__ = ["device_to_json", "rejection_to_json", "to_json"]


def rejection_to_json(rejection: Rejection) -> dict[str, object]:
    return {
        "model": rejection.model,
        "tier": rejection.tier,
        "backend": rejection.backend,
        "reason": rejection.reason,
        "over_bytes": rejection.over_bytes,
    }


def to_json(plan: Plan) -> dict[str, object]:
    """Everything that the plan decided and why, in plain values; bytes are whole bytes."""
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
        "backend": plan.backend,
        "window": {
            "context": window.slots,
            "window": window.window,
            "sink": window.sink,
            "block": window.block,
            "limit": window.limit,
            "kv_type": plan.kv_type,
        },
        "n_threads": plan.n_threads,
        "estimate": {
            "weight_bytes": cost.weight_bytes,
            "kv_bytes": cost.kv_bytes,
            "workspace_bytes": cost.workspace_bytes,
            "total_bytes": cost.total_bytes,
        },
        "expected_tokens_per_s": round(plan.expected_tokens_per_s, 2),
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
