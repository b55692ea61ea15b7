"""The list of drafters. A drafter is one file in this folder and one line in this list; README.md shows how."""

from __future__ import annotations

from edgeinfer.decode.drafters.draft_model import DRAFT_MODEL
from edgeinfer.decode.drafters.early_exit import EARLY_EXIT
from edgeinfer.decode.drafters.kind import DrafterKind
from edgeinfer.decode.drafters.lookup import LOOKUP
from edgeinfer.decode.drafters.taught import EXIT, FEATURE
from edgeinfer.plan.speculation import DrafterFacts

__all__ = ["DRAFTERS", "drafter_facts", "speculation_modes"]

DRAFTERS: tuple[DrafterKind, ...] = (
    LOOKUP,
    EARLY_EXIT,
    EXIT,
    FEATURE,
    DRAFT_MODEL,
)


def drafter_facts() -> tuple[DrafterFacts, ...]:
    """What a plan needs to know about each drafter."""
    return tuple(kind.facts for kind in DRAFTERS)


def speculation_modes() -> tuple[str, ...]:
    """The values of `--speculation`."""
    return ("auto", "off", *(kind.name for kind in DRAFTERS))
