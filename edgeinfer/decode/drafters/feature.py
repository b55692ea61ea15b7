"""A taught layer over what the whole model knew one position before (EAGLE-3, arXiv 2503.01840)."""

from __future__ import annotations

from typing import Final

from edgeinfer.decode.drafters.early_exit import MAX_DRAFTS
from edgeinfer.decode.drafters.gated import Gated, GatedEstimator
from edgeinfer.decode.drafters.kind import Built, DrafterKind, Opened
from edgeinfer.decode.policy.costs import Part
from edgeinfer.plan.speculation import DrafterFacts, Target
from edgeinfer.protocols import Round, Row
from edgeinfer.types import Tokens

__all__ = ["FEATURE", "FeatureSource"]

NAME: Final = "feature"


class FeatureSource:
    """A `Source` for `Gated`. The drafts have run no layer of the model, so a verify is a whole one."""

    name = NAME
    draft_part: Part = "exit-draft"
    whole_part: Part = "verify"
    short_part: Part = "verify"
    _round: Round

    def reset(self, context: Tokens) -> None:
        del context

    def extend(self, tokens: Tokens) -> None:
        del tokens

    def start(self, round: Round) -> None:
        self._round = round

    def draft(self, token: int) -> Row:
        return self._round.draft(token)


def _note(target: Target) -> str:
    taught = target.taught
    first = f", right in {taught.agreement[0]:.0%} of first drafts" if taught and taught.agreement else ""
    return f"a taught draft while it is confident{first}"


def _build(opened: Opened) -> Built:
    gated = Gated(FeatureSource(), opened.costs)
    max_depth = min(MAX_DRAFTS, opened.costs.max_rows - 1)
    return Built(gated, GatedEstimator(gated, opened.costs, max_depth=max_depth))


FEATURE: Final = DrafterKind(DrafterFacts(NAME, _note, needs="feature draft"), _build)
