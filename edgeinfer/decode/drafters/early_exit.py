"""The model's own early layers as a drafter: self-speculation (LayerSkip, arXiv 2404.16710)."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Final

from edgeinfer.decode.drafters.gated import MAX_DRAFTS, Gated, GatedEstimator
from edgeinfer.decode.drafters.kind import Built, DrafterInputs, DrafterKind
from edgeinfer.decode.policy.arms import Arm, Outcome
from edgeinfer.decode.policy.costs import DEEPER, FIRST, Costs, Part
from edgeinfer.decode.policy.offers import Offer, best_length
from edgeinfer.plan.speculation import DrafterFacts, Target
from edgeinfer.protocols import Round, Row, TokenLike
from edgeinfer.types import Tokens

__all__ = ["EARLY_EXIT", "EarlyExit", "ExitSource", "FixedDepthEstimator", "exit_speedup"]

NAME: Final = "early-exit"
AGREEMENT: Final = 0.72  # of the demo, the one model here that was trained with its exit; a file does not state its own


class ExitSource:
    """A source for a gated drafter: the drafts of `Round.draft`, each read before the next one is made."""

    draft_part: Part = "exit-draft"
    _round: Round

    def __init__(self, name: str = NAME, *, whole_part: Part = "back", short_part: Part = "back-short") -> None:
        self.name = name
        self.whole_part: Part = whole_part
        self.short_part: Part = short_part

    def reset(self, context: Tokens) -> None:
        del context

    def extend(self, tokens: Tokens) -> None:
        del tokens

    def start(self, round: Round) -> None:
        self._round = round

    def draft(self, token: int) -> Row:
        return self._round.draft(token)


class EarlyExit:
    """A chain of drafts whose depth is fixed before the round, so that no row is read on the host before the verify."""

    def __init__(self, name: str = NAME) -> None:
        self.name = name
        self._last = 0

    def reset(self, context: Tokens) -> None:
        self._last = context[-1]

    def extend(self, tokens: Tokens) -> None:
        self._last = tokens[-1]

    def propose(self, round: Round, limit: int) -> Sequence[TokenLike]:
        drafts: list[TokenLike] = []
        token: TokenLike = self._last
        for _ in range(limit):
            token = round.draft(token)
            drafts.append(token)
        return drafts


class FixedDepthEstimator:
    """Learns the acceptance rate of each depth, and offers the depth with the most tokens per time."""

    # The prior counts as four rounds. No report set these values: on a Mac nothing was measured yet.
    PRIOR_ACCEPTANCE: Final = 0.6
    PRIOR_ROUNDS: Final = 4.0
    MEMORY_ROUNDS: Final = 60.0

    def __init__(
        self,
        costs: Costs,
        *,
        max_depth: int,
        name: str = NAME,
        verify_part: Part = "back-short",
        agreement: Sequence[float] = (),
    ) -> None:
        """`agreement` by depth is known of a taught draft; deeper drafts are expected to be as right as its last."""
        self.name = name
        self._costs = costs
        self._verify_part: Part = verify_part
        known = [*agreement[:max_depth]] or [self.PRIOR_ACCEPTANCE]
        # of each draft, given that those before it were accepted
        self._rates = known + known[-1:] * (max_depth - len(known))
        self._rounds = [self.PRIOR_ROUNDS] * max_depth

    def offer(self, limit: int) -> Offer | None:
        n, tokens, time = best_length(self._rates[: max(0, limit)], self._time)
        if n:
            return Offer(Arm(self.name, n), tokens, time)
        return Offer(Arm(self.name, 1), 1.0 + self._rates[0], self._time(1)) if limit > 0 else None

    def observe(self, outcome: Outcome) -> None:
        for depth in range(min(outcome.accepted + 1, outcome.drafted)):
            self._rounds[depth] = min(self._rounds[depth] + 1.0, self.MEMORY_ROUNDS)
            self._rates[depth] += ((depth < outcome.accepted) - self._rates[depth]) / self._rounds[depth]
        if outcome.drafted:
            self._costs.observe("exit-draft", DEEPER, outcome.draft_s / outcome.drafted)
        self._costs.observe(self._verify_part, outcome.drafted + 1, outcome.verify_s)

    def _time(self, n: int) -> float:
        return n * self._costs.ratio("exit-draft", DEEPER) + self._costs.ratio(self._verify_part, n + 1) if n else 1.0


def exit_speedup(costs: Costs) -> float:
    """Speed-up over plain decoding that is expected of the best fixed number of drafts. A gate can only do better."""

    def time(n: int) -> float:
        if not n:
            return inf  # a round without drafts is no answer here
        drafts = costs.ratio("exit-draft", FIRST) + (n - 1) * costs.ratio("exit-draft", DEEPER)
        return drafts + costs.ratio("back-short", n + 1)

    _, tokens, needed = best_length([AGREEMENT] * min(MAX_DRAFTS, costs.max_rows - 1), time)
    return tokens / needed


def _note(target: Target) -> str:
    return f"early exit after layer {target.exit_layer} of {target.n_layers} while it is confident"


def _build(inputs: DrafterInputs) -> Built:
    if not inputs.rows_cheap_to_read:
        max_depth = min(MAX_DRAFTS, inputs.costs.max_rows - 1)
        return Built(EarlyExit(), FixedDepthEstimator(inputs.costs, max_depth=max_depth))
    gated = Gated(ExitSource(), inputs.costs)
    return Built(gated, GatedEstimator(gated, inputs.costs))


EARLY_EXIT: Final = DrafterKind(DrafterFacts(NAME, _note, needs="early exit"), _build)
