"""MLX's own memory limits, set from the plan. By default MLX would use one and a half times the Metal working set."""

from __future__ import annotations

import mlx.core as mx

from edgeinfer.plan.types import Plan

CACHE_BYTES = 256 << 20  # freed buffers that MLX keeps for the next round


def apply_limits(plan: Plan) -> None:
    mx.set_memory_limit(plan.budget_bytes)
    mx.set_cache_limit(min(CACHE_BYTES, max(0, plan.budget_bytes - plan.estimate.total_bytes)))
    if mx.metal.is_available():
        mx.set_wired_limit(min(plan.budget_bytes, plan.estimate.total_bytes))
