"""Which drafters the decoder may try with a plan."""

from __future__ import annotations

from edgeinfer.errors import UsageError
from edgeinfer.plan.candidates import Candidate
from edgeinfer.plan.types import Request, SpeculationPlan

__all__ = ["plan_speculation"]

_MAX_ROWS = 16
_EXACT_ROWS = {  # most rows of one llama.cpp forward whose logits equal those of single rows
    ("gguf", "Q4_K_M"): 3,
    ("gguf", "Q4_0"): _MAX_ROWS,
    ("gguf", "Q8_0"): _MAX_ROWS,
    ("reference", "Q4_0"): _MAX_ROWS,
    ("reference", "Q8_0"): _MAX_ROWS,
}


def plan_speculation(chosen: Candidate, request: Request) -> SpeculationPlan:
    """Raises UsageError when a drafter was asked for by name that this model or backend does not have."""
    mode = request.speculation
    if mode == "off":
        return SpeculationPlan("off", (), note="turned off")
    exit_layer = chosen.model.exit_layer if chosen.capabilities.early_exit else None
    if mode == "early-exit" and exit_layer is None:
        raise UsageError(
            f"{chosen.model.name} has no early exit on {chosen.artifact.backend}", hint="--speculation lookup or auto"
        )
    if mode == "draft" and not request.draft_model:
        raise UsageError("speculation with a draft model needs its name", hint="--draft-model NAME")
    possible = {
        "lookup": True,
        "early-exit": exit_layer is not None,
        "draft": bool(request.draft_model),
    }
    drafters = tuple(name for name, can in possible.items() if can and mode in ("auto", name))
    rows = _EXACT_ROWS.get((chosen.artifact.backend, chosen.artifact.tier))
    note = "same tokens as plain decoding" if rows else "rows equal plain ones within rounding"
    return SpeculationPlan(
        mode,
        drafters,
        exit_layer=exit_layer if "early-exit" in drafters else None,
        max_rows=rows or _MAX_ROWS,
        note=note,
    )
