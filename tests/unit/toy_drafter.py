"""A drafter as a contributor would add one: this file, and one line in the list in `edgeinfer/decode/drafters`."""

from __future__ import annotations

from collections.abc import Sequence

from edgeinfer.decode.drafters.kind import Built, DrafterInputs, DrafterKind
from edgeinfer.decode.policy.arms import Arm, Outcome
from edgeinfer.decode.policy.offers import Offer
from edgeinfer.plan.speculation import DrafterFacts
from edgeinfer.protocols import Round, TokenLike
from edgeinfer.types import Tokens


class Echo:
    """Guesses that the last token repeats."""

    name = "echo"

    def __init__(self) -> None:
        self.last = 0

    def reset(self, context: Tokens) -> None:
        self.last = context[-1]

    def extend(self, tokens: Tokens) -> None:
        self.last = tokens[-1]

    def propose(self, round: Round, limit: int) -> Sequence[TokenLike]:
        del round
        return [self.last] * limit


class EchoEstimator:
    name = "echo"

    def offer(self, limit: int) -> Offer | None:
        return Offer(Arm(self.name, 1), expected_tokens=1.5, expected_time=1.1) if limit > 0 else None

    def observe(self, outcome: Outcome) -> None:
        pass


def build(inputs: DrafterInputs) -> Built:
    del inputs
    return Built(Echo(), EchoEstimator())


ECHO = DrafterKind(DrafterFacts("echo", lambda target: f"the last token of {target.model.title} again"), build)
