"""Why a plan is what it is, in plain lines."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.catalog.catalog import Catalog
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.plan.candidates import Candidate, reserve_bytes
from edgeinfer.plan.speed import expected_tokens_per_s
from edgeinfer.plan.types import Request

__all__ = ["SLOW", "reasons"]

SLOW = "slow: "  # how the reason begins that a person should see before waiting


def reasons(
    device: DeviceProfile,
    catalog: Catalog,
    chosen: Candidate,
    able: Sequence[Candidate],
    budget: int,
    floor: float,
    request: Request,
) -> tuple[str, ...]:
    """`able` is everything that could run here, with what it costs at the context it was judged at."""
    lines = [_choice_line(chosen, budget, floor, request)]
    if chosen.tokens_per_s < floor:
        lines.append(f"{SLOW}about {chosen.tokens_per_s:.1f} tokens/s, below {floor:g}")
    lines.append(_budget_line(device, budget))
    lines.append(f"bandwidth {device.bandwidth_bytes_per_s / 1e9:.0f} GB/s: {device.bandwidth_source}")
    lines.append(_context_line(device, chosen, request))
    if not request.model:
        lines += _picks_line(device, catalog, chosen, able, budget, floor)
        lines += _slower_line(chosen, able, budget, floor)
    return tuple(lines)


def _choice_line(chosen: Candidate, budget: int, floor: float, request: Request) -> str:
    if chosen.estimate.total_bytes > budget:
        over = (chosen.estimate.total_bytes - budget) / 1e6
        return f"FORCED past the budget by {over:,.0f} MB: the system may end this process or slow to a crawl"
    if request.model:
        tier = "the tier that was asked for" if request.tier else "its best tier that fits at a usable speed"
        return f"{chosen.model.title} was asked for; {chosen.artifact.tier} is {tier}"
    return f"{chosen.model.title} ranks highest of what fits and decodes at {floor:g} tokens/s or more"


def _budget_line(device: DeviceProfile, budget: int) -> str:
    ceiling, available = device.ceiling_bytes / 1e6, device.available_bytes / 1e6
    kept = f"less {reserve_bytes(device) / 1e6:,.0f} MB kept free"
    if ceiling <= available:
        return f"budget {budget / 1e6:,.0f} MB: the ceiling of {ceiling:,.0f} MB ({device.ceiling_source}), {kept}"
    return f"budget {budget / 1e6:,.0f} MB: {available:,.0f} MB available, {kept}"


def _context_line(device: DeviceProfile, chosen: Candidate, request: Request) -> str:
    slots = chosen.window.slots
    full = expected_tokens_per_s(device, chosen.model.shape, chosen.artifact, chosen.estimate.kv_bytes)
    speed = f"about {full:.1f} tokens/s when it is full"
    if request.context is not None:
        rounded = f", rounded down from {request.context}" if slots != request.context else ""
        return f"context of {slots} tokens as asked{rounded}; {speed}"
    if slots == chosen.window.limit:
        return f"context of {slots} tokens, all that the model has; {speed}"
    return f"context of {slots} tokens: the next size would not fit, or cost a full chat a fifth of its speed; {speed}"


def _picks_line(
    device: DeviceProfile,
    catalog: Catalog,
    chosen: Candidate,
    able: Sequence[Candidate],
    budget: int,
    floor: float,
) -> list[str]:
    """What `models.toml` names for a machine of this memory, and what became of it here."""
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
        return f"{over / 1e6:,.0f} MB too large"
    if one.tokens_per_s < floor:
        return f"fits, but {one.tokens_per_s:.1f} tokens/s"
    return "fits, ranks lower"


def _slower_line(chosen: Candidate, able: Sequence[Candidate], budget: int, floor: float) -> list[str]:
    """The best models that fit but are slower than the floor: an option for who can wait."""
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
