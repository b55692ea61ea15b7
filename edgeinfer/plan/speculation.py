"""Which drafters the decoder may use with a plan, and what people are told about them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from edgeinfer.catalog.entry import ModelEntry
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.errors import UsageError
from edgeinfer.plan.candidates import Candidate
from edgeinfer.plan.types import Request, SpeculationPlan

__all__ = ["DrafterFacts", "Need", "Target", "plan_speculation"]

MAX_ROWS: Final = 16
_EXACT_ON_X86: Final = {"Q4_0": MAX_ROWS, "Q8_0": MAX_ROWS, "Q4_K_M": 3}  # llama.cpp's kernels, flash attention on

Need: TypeAlias = Literal["early exit", "draft model"]


@dataclass(frozen=True, slots=True)
class Target:
    """The model that a drafter would draft for."""

    model: ModelEntry
    backend: str
    exit_layer: int | None  # that this backend can use; None: no early exit
    draft_model: str = ""
    measured_tier: str = ""  # the tier, where the reports' x86 figures hold for this device and backend; else ""

    @property
    def n_layers(self) -> int:
        return self.model.shape.n_layers

    def lacks(self, need: Need | None) -> bool:
        return (need == "early exit" and self.exit_layer is None) or (need == "draft model" and not self.draft_model)


@dataclass(frozen=True, slots=True)
class DrafterFacts:
    """What a plan has to know about a drafter."""

    name: str  # the value of `--speculation`
    note: Callable[[Target], str]  # when it drafts, for people
    needs: Need | None = None  # without it the drafter is not possible; None: always possible


def plan_speculation(
    device: DeviceProfile, chosen: Candidate, request: Request, drafters: Sequence[DrafterFacts]
) -> SpeculationPlan:
    """Raises UsageError when a drafter was asked for by name that this model or backend does not have."""
    mode = request.speculation
    if mode == "off":
        return SpeculationPlan("off", (), note="turned off")
    on_x86 = _on_x86(device, chosen)
    target = Target(
        chosen.model,
        chosen.artifact.backend,
        chosen.model.exit_layer if chosen.capabilities.early_exit else None,
        request.draft_model,
        chosen.artifact.tier if on_x86 else "",
    )
    wanted = [facts for facts in drafters if mode in ("auto", facts.name)]
    if mode != "auto":
        _check_possible(mode, wanted, target)
    possible = [facts for facts in wanted if not target.lacks(facts.needs)]
    exact_rows = _exact_rows(device, chosen)
    return SpeculationPlan(
        mode,
        tuple(facts.name for facts in possible),
        exit_layer=target.exit_layer if any(facts.needs == "early exit" for facts in possible) else None,
        max_rows=exact_rows or MAX_ROWS,
        exact=exact_rows is not None,
        note=_note(possible, target, exact=exact_rows is not None),
    )


def _check_possible(mode: str, wanted: Sequence[DrafterFacts], target: Target) -> None:
    if not wanted:
        raise UsageError(f"there is no drafter named {mode}", hint="--speculation auto or off")
    need = wanted[0].needs
    if not target.lacks(need):
        return
    if need == "draft model":
        raise UsageError("speculation with a draft model needs its name", hint="--draft-model NAME")
    raise UsageError(
        f"{target.model.name} has no {need} on {target.backend}", hint="--speculation auto takes what is possible"
    )


def _note(possible: Sequence[DrafterFacts], target: Target, *, exact: bool) -> str:
    """What is tried and when, and what it does to the tokens."""
    if not possible:
        return "no drafter is possible: plain decoding"
    tried = ", ".join(facts.note(target) for facts in possible)
    tokens = "same tokens as plain decoding" if exact else "same tokens up to rounding"
    return f"{tried}; plain decoding where that is faster; {tokens}"


def _exact_rows(device: DeviceProfile, chosen: Candidate) -> int | None:
    """Most rows of one forward whose logits equal those of single rows; None: equal up to rounding only."""
    if chosen.artifact.backend == "reference":
        return MAX_ROWS
    if chosen.kv_type in ("f16", "f32"):
        return None  # llama.cpp splits the keys of a single row among its threads
    return _EXACT_ON_X86.get(chosen.artifact.tier) if _on_x86(device, chosen) else None


def _on_x86(device: DeviceProfile, chosen: Candidate) -> bool:
    return chosen.artifact.backend == "gguf" and "avx2" in device.cpu_features and not device.accelerators
