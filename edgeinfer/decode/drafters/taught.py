"""Layers that were taught to draft for a model (`--draft FILE`), one drafter for each kind.

`feature` runs on what the whole model knew one position before (EAGLE-3, arXiv 2503.01840). `exit` runs on the state
after the model's first layers (as in LayerSkip, arXiv 2404.16710, without training the model itself).
"""

from __future__ import annotations

from typing import Final

from edgeinfer.decode.drafters.early_exit import EarlyExit, ExitSource, FixedDepthEstimator
from edgeinfer.decode.drafters.gated import MAX_DRAFTS, Gated, GatedEstimator
from edgeinfer.decode.drafters.kind import Built, DrafterInputs, DrafterKind
from edgeinfer.decode.policy.controller import MIN_SPEEDUP
from edgeinfer.plan.speculation import DrafterFacts, Target

__all__ = ["EXIT", "FEATURE"]


def _note(target: Target) -> str:
    taught = target.taught
    first = f", right in {taught.agreement[0]:.0%} of first drafts" if taught and taught.agreement else ""
    return f"a taught draft while it is confident{first}{_worth(target.taught_speedup)}"


def _worth(speedup: float) -> str:
    if not speedup:
        return ""
    gain = f"about {speedup:.2f}x alone" if speedup > MIN_SPEEDUP else "no gain is expected"
    return f" ({gain}, by row times of this machine)"


def _build(name: str, inputs: DrafterInputs) -> Built:
    # The drafts have run no layer in the model's own memory, so a verify is a whole one.
    if not inputs.rows_cheap_to_read:
        max_depth = min(MAX_DRAFTS, inputs.costs.max_rows - 1)
        estimator = FixedDepthEstimator(
            inputs.costs, max_depth=max_depth, name=name, verify_part="verify", agreement=inputs.agreement
        )
        return Built(EarlyExit(name), estimator)
    source = ExitSource(name, whole_part="verify", short_part="verify")
    first = inputs.agreement[0] if inputs.agreement else None
    gated = Gated(source, inputs.costs, agreement=first, reads_prompt=True)
    return Built(gated, GatedEstimator(gated, inputs.costs))


EXIT: Final = DrafterKind(DrafterFacts("exit", _note, needs="exit draft"), lambda inputs: _build("exit", inputs))
FEATURE: Final = DrafterKind(
    DrafterFacts("feature", _note, needs="feature draft"), lambda inputs: _build("feature", inputs)
)
