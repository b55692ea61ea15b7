"""Which drafters the decoder may try with a plan."""

from __future__ import annotations

from edgeinfer.device.profile import DeviceProfile
from edgeinfer.errors import UsageError
from edgeinfer.plan.candidates import Candidate
from edgeinfer.plan.expect import speculation_note
from edgeinfer.plan.types import Request, SpeculationPlan

__all__ = ["plan_speculation"]

_MAX_ROWS = 16
_EXACT_ON_X86 = {"Q4_0": _MAX_ROWS, "Q8_0": _MAX_ROWS, "Q4_K_M": 3}  # llama.cpp's kernels there, flash attention on


def plan_speculation(device: DeviceProfile, chosen: Candidate, request: Request) -> SpeculationPlan:
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
    rows = _exact_rows(device, chosen)
    exit_at = (exit_layer, chosen.model.shape.n_layers) if exit_layer is not None else None
    measured_tier = chosen.artifact.tier if _on_x86(device, chosen) else ""
    note = speculation_note(drafters, measured_tier, exit_at, exact=rows is not None)
    return SpeculationPlan(
        mode,
        drafters,
        exit_layer=exit_layer if "early-exit" in drafters else None,
        max_rows=rows or _MAX_ROWS,
        exact=rows is not None,
        note=note,
    )


def _exact_rows(device: DeviceProfile, chosen: Candidate) -> int | None:
    """Most rows of one forward whose logits equal those of single rows; None: equal within rounding only."""
    if chosen.artifact.backend == "reference":
        return _MAX_ROWS
    if chosen.kv_type in ("f16", "f32"):
        return None  # llama.cpp splits the keys of a single row among its threads
    return _EXACT_ON_X86.get(chosen.artifact.tier) if _on_x86(device, chosen) else None


def _on_x86(device: DeviceProfile, chosen: Candidate) -> bool:
    return chosen.artifact.backend == "gguf" and "avx2" in device.cpu_features and not device.accelerators
