"""A taught layer that drafts from the model's states at the position before (EAGLE-3, arXiv 2503.01840)."""

from __future__ import annotations

from typing import Final

from edgeinfer.decode.drafters.early_exit import MAX_DRAFTS, ExitSource
from edgeinfer.decode.drafters.gated import Gated, GatedEstimator
from edgeinfer.decode.drafters.kind import Built, DrafterInputs, DrafterKind
from edgeinfer.plan.speculation import DrafterFacts, Target

__all__ = ["FEATURE"]

NAME: Final = "feature"


def _note(target: Target) -> str:
    taught = target.taught
    first = f", right in {taught.agreement[0]:.0%} of first drafts" if taught and taught.agreement else ""
    return f"a taught draft while it is confident{first}"


def _build(inputs: DrafterInputs) -> Built:
    # The drafts have run no layer of the model, so a verify is a whole one.
    gated = Gated(ExitSource(NAME, whole_part="verify", short_part="verify"), inputs.costs)
    max_depth = min(MAX_DRAFTS, inputs.costs.max_rows - 1)
    return Built(gated, GatedEstimator(gated, inputs.costs, max_depth=max_depth))


FEATURE: Final = DrafterKind(DrafterFacts(NAME, _note, needs="feature draft"), _build)
