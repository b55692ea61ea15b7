"""Which drafters the decoder may use with a plan, and the line of the plan about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from edgeinfer.catalog.entry import ModelEntry, TaughtDraft
from edgeinfer.device.profile import DeviceProfile
from edgeinfer.errors import UsageError
from edgeinfer.plan.candidates import Candidate
from edgeinfer.plan.taught import expected_speedup
from edgeinfer.plan.types import Request, SpeculationPlan

__all__ = ["DrafterFacts", "Need", "Target", "plan_speculation"]

Need: TypeAlias = Literal["early exit", "draft model", "exit draft", "feature draft"]


@dataclass(frozen=True, slots=True)
class Target:
    """The model that a drafter would draft for."""

    model: ModelEntry
    backend: str
    exit_layer: int | None  # that this backend can use; None: no early exit
    draft_model: str = ""
    taught: TaughtDraft | None = None  # that this backend can run
    taught_speedup: float = 0.0  # expected speed-up with it alone, by row times of this machine; 0: not measured
    measured_types: frozenset[str] = (
        frozenset()
    )  # of the file's tensors, where docs/speculation.md measured such a device

    @property
    def n_layers(self) -> int:
        return self.model.shape.n_layers

    def lacks(self, need: Need | None) -> bool:
        there: Mapping[Need | None, bool] = {
            None: True,
            "early exit": self.exit_layer is not None,
            "draft model": bool(self.draft_model),
            "exit draft": self.taught is not None and self.taught.kind == "exit",
            "feature draft": self.taught is not None and self.taught.kind == "feature",
        }
        return not there[need]


@dataclass(frozen=True, slots=True)
class DrafterFacts:
    """What a plan needs to know about a drafter."""

    name: str  # the value of `--speculation`
    note: Callable[[Target], str]  # when it drafts, as text for users
    needs: Need | None = None  # without it the drafter is not possible; None: always possible


def plan_speculation(
    device: DeviceProfile, chosen: Candidate, request: Request, drafters: Sequence[DrafterFacts]
) -> SpeculationPlan:
    """Raises UsageError when a drafter was asked for by name that this model or backend does not have."""
    mode = request.speculation
    if mode == "off":
        return SpeculationPlan("off", (), note="turned off")
    facts, types = chosen.facts, chosen.artifact.tensor_types
    measured_types = types if facts.is_measured_on(device) else frozenset()
    taught = chosen.taught
    times = device.row_times.get(taught.key(chosen.artifact)) if taught else None
    speedup = expected_speedup(taught, chosen.model.shape, times) if taught and times else 0.0
    target = Target(chosen.model, facts.name, chosen.exit_layer, request.draft_model, taught, speedup, measured_types)
    wanted = [drafter for drafter in drafters if mode in ("auto", drafter.name)]
    if mode != "auto":
        _check_possible(mode, wanted, target)
    possible = [drafter for drafter in wanted if not target.lacks(drafter.needs)]
    exact_rows = facts.exact_rows(device, types, chosen.kv_type)
    off = f"; no early exit: {chosen.no_early_exit}" if chosen.no_early_exit else ""
    if chosen.no_taught and mode == "auto":
        off += f"; no taught draft: {chosen.no_taught}"
    return SpeculationPlan(
        mode,
        tuple(drafter.name for drafter in possible),
        exit_layer=target.exit_layer if any(drafter.needs == "early exit" for drafter in possible) else None,
        max_rows=exact_rows or facts.max_rows,
        exact=exact_rows is not None,
        note=_note(possible, target, exact=exact_rows is not None) + off,
    )


def _check_possible(mode: str, wanted: Sequence[DrafterFacts], target: Target) -> None:
    if not wanted:
        raise UsageError(f"there is no drafter named {mode}", hint="--speculation auto or off")
    need = wanted[0].needs
    if not target.lacks(need):
        return
    if need == "draft model":
        raise UsageError("speculation with a draft model needs its name", hint="--draft-model NAME")
    if need in ("exit draft", "feature draft"):
        raise UsageError(
            f"{target.model.name} has no taught draft of this kind on {target.backend}", hint="--draft FILE names one"
        )
    raise UsageError(
        f"{target.model.name} has no {need} on {target.backend}", hint="--speculation auto takes what is possible"
    )


def _note(possible: Sequence[DrafterFacts], target: Target, *, exact: bool) -> str:
    """Which drafters are tried, and whether the tokens stay the same."""
    if not possible:
        return "no drafter is possible: plain decoding"
    tried = ", ".join(facts.note(target) for facts in possible)
    tokens = "same tokens as plain decoding" if exact else "same tokens up to rounding"
    return f"{tried}; plain decoding where that is faster; {tokens}"
