"""What a drafter states about itself: facts for the plan, and how to build it for a conversation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgeinfer.decode.policy.costs import Costs
from edgeinfer.decode.policy.offers import Estimator
from edgeinfer.plan.speculation import DrafterFacts
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Drafter, Model
from edgeinfer.window import WindowPolicy


@dataclass(frozen=True, slots=True)
class OpenedDraftModel:
    """The model of `--draft-model`, its plan, and the number of positions it was trained for."""

    model: Model
    plan: Plan
    max_positions: int


@dataclass(frozen=True, slots=True)
class DrafterInputs:
    """What a drafter may be built from. The costs are shared by all conversations of the model."""

    costs: Costs
    window: WindowPolicy
    rows_cheap_to_read: bool  # False: reading a row on the host stalls the device
    draft_model: OpenedDraftModel | None
    agreement: tuple[float, ...] = ()  # of the taught draft by depth, as its file says


def _nothing() -> None:
    return None


@dataclass(frozen=True, slots=True)
class Built:
    """A drafter of one conversation, with the estimator that offers its rounds to the controller."""

    drafter: Drafter
    estimator: Estimator
    close: Callable[[], None] = _nothing


@dataclass(frozen=True, slots=True)
class DrafterKind:
    """An entry in the list of drafters."""

    facts: DrafterFacts
    build: Callable[[DrafterInputs], Built]

    @property
    def name(self) -> str:
        return self.facts.name
