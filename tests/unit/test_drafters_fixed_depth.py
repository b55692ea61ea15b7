"""A chain of drafts where rows are slow to read: no row is read before the verify, and the depth follows acceptance."""

from __future__ import annotations

from edgeinfer.decode.drafters import DRAFTERS
from edgeinfer.decode.drafters.early_exit import EarlyExit, FixedDepthEstimator
from edgeinfer.decode.drafters.kind import Built, DrafterInputs
from edgeinfer.decode.policy.arms import Arm, Outcome
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.window import WindowPolicy

WINDOW = WindowPolicy(window=64, sink=0, block=16, limit=64)
COSTS = RowCosts({1: 1.0, 8: 1.7}, exit_draft_s=0.1)


class UnreadRow:
    def argmax(self) -> int:
        raise AssertionError("a drafted row was read")


class Chain:
    def __init__(self) -> None:
        self.asked: list[object] = []

    def draft(self, token: object) -> UnreadRow:
        self.asked.append(token)
        return UnreadRow()


def built(name: str, agreement: tuple[float, ...], *, cheap: bool) -> Built:
    kind = next(kind for kind in DRAFTERS if kind.name == name)
    return kind.build(DrafterInputs(Costs(COSTS, 8), WINDOW, cheap, None, agreement))


def test_a_taught_draft_is_chained_where_rows_are_slow_to_read() -> None:
    for name in ("feature", "exit"):
        drafter = built(name, (0.7,), cheap=False).drafter
        assert isinstance(drafter, EarlyExit) and drafter.name == name
        assert not isinstance(built(name, (0.7,), cheap=True).drafter, EarlyExit)
        drafter.reset([3, 5])
        chain = Chain()
        drafts = drafter.propose(chain, 3)  # type: ignore[arg-type]
        assert chain.asked == [5, drafts[0], drafts[1]] and len(drafts) == 3


def test_its_first_depth_follows_the_agreement_of_its_file() -> None:
    depths = {}
    for share in (0.05, 0.6, 0.95):
        offer = built("feature", (share, share), cheap=False).estimator.offer(7)
        assert offer is not None
        depths[share] = offer.arm.depth
    assert depths[0.05] == 1 < depths[0.6] < depths[0.95]


def test_it_learns_from_what_was_accepted_and_what_a_verify_took() -> None:
    costs = Costs(COSTS, 8)
    estimator = FixedDepthEstimator(costs, max_depth=7, name="feature", verify_part="verify", agreement=(0.9,))
    first = estimator.offer(7)
    for _ in range(40):
        estimator.observe(Outcome(drafted=7, accepted=0, emitted=1, draft_s=0.7, verify_s=3.4))
    last = estimator.offer(7)
    assert first is not None and last is not None
    assert first.arm.depth > 3 and last.arm == Arm("feature", 1)
    assert costs.ratio("verify", 8) > 2.5
