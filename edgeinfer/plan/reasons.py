"""Why a plan is what it is, in plain lines."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.catalog.catalog import Catalog
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.plan.candidates import Candidate, reserve_bytes
from edgeinfer.plan.speed import expected_tokens_per_s
from edgeinfer.plan.types import Request

__all__ = ["reasons"]


def reasons(
    device: DeviceProfile,
    catalog: Catalog,
    chosen: Candidate,
    others: Sequence[Candidate],
    budget: int,
    floor: float,
    request: Request,
) -> tuple[str, ...]:
    del catalog
    lines = []
    if chosen.estimate.total_bytes > budget:
        lines.append(f"FORCED: needs {(chosen.estimate.total_bytes - budget) / 1e6:,.0f} MB more than the budget")
    elif request.model:
        lines.append(f"{chosen.model.title} was asked for; {chosen.artifact.tier} is its best tier that fits")
    else:
        lines.append(f"{chosen.model.title} ranks highest of what fits and decodes at {floor:g} tokens/s or more")
    if chosen.tokens_per_s < floor:
        lines.append(f"slow: about {chosen.tokens_per_s:.1f} tokens/s, below {floor:g}")
    lines.append(
        f"budget {budget / 1e6:,.0f} MB: the lesser of the ceiling, {device.ceiling_bytes / 1e6:,.0f} MB "
        f"({device.ceiling_source}), and {device.available_bytes / 1e6:,.0f} MB available, "
        f"less {reserve_bytes(device) / 1e6:,.0f} MB kept free"
    )
    full = expected_tokens_per_s(device, chosen.model.shape, chosen.artifact, chosen.estimate.kv_bytes)
    lines.append(_context_line(chosen, full, request))
    del others
    return tuple(lines)


def _context_line(chosen: Candidate, full: float, request: Request) -> str:
    slots = chosen.window.slots
    if request.context is not None:
        rounded = f", rounded down from {request.context}" if slots != request.context else ""
        return f"context {slots} tokens as asked{rounded}; {full:.1f} tokens/s when it is full"
    if slots == chosen.model.shape.limit:
        return f"context {slots} tokens, all that the model has; {full:.1f} tokens/s when it is full"
    return (
        f"context {slots} tokens: the next size would not fit, or slow a full chat by more than a fifth; "
        f"{full:.1f} tokens/s when it is full"
    )
