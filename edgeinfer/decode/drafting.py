"""Builds the drafters of a plan: costs once per loaded model, everything else once per conversation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Final

from edgeinfer.decode import drafters
from edgeinfer.decode.drafters.early_exit import EARLY_EXIT, exit_speedup
from edgeinfer.decode.drafters.kind import DrafterInputs, DrafterKind, OpenedDraftModel
from edgeinfer.decode.policy.arms import Controller, Fixed
from edgeinfer.decode.policy.calibrate import BUDGET_S, CostStore, calibrate, cost_key
from edgeinfer.decode.policy.controller import Auto
from edgeinfer.decode.policy.costs import DEEPER, Costs, RowCosts
from edgeinfer.device.row_times import RowTimes, keep_row_times
from edgeinfer.errors import UsageError
from edgeinfer.plan.taught import too_little, why_hopeless
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Drafter, Model, Tokenizer

__all__ = [
    "Drafting",
    "OpenedDraftModel",
    "check_same_tokens",
    "measure",
    "new_drafting",
    "opened_draft_model",
    "without_hopeless",
]

DRAFT_BUDGET_S: Final = 0.2  # for the draft model, of which only the plain round is timed
KEPT_ROWS: Final = 9  # as many as a drafted round has
TOKEN_SAMPLE_STEP: Final = 997  # compare every 997th token; a prime, so that no regular vocabulary hides between


@dataclass(frozen=True, slots=True)
class Drafting:
    """The controller and drafters of one conversation. `close` frees what they own, and may be called twice."""

    controller: Controller = field(default_factory=Fixed)
    drafters: Mapping[str, Drafter] = field(default_factory=dict)
    _owned: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        self._owned.close()


def opened_draft_model(model: Model, plan: Plan) -> OpenedDraftModel:
    """A model that switches RoPE factors for long contexts (Phi) stays within its short limit."""
    return OpenedDraftModel(model, plan, plan.model.shape.short_limit or plan.window.limit)


def measure(model: Model, plan: Plan, *, draft: OpenedDraftModel | None = None) -> Costs | None:
    """The times of the parts of a round on this device, stored or measured now. The conversations of a model share
    them. None if the plan decodes plainly.

    Raises UsageError for a draft model with another tokenizer.
    """
    max_rows = min(plan.speculation.max_rows, model.exact_rows or plan.speculation.max_rows)
    if max_rows < 2 or not usable_drafters(model, plan, draft):
        return None
    measured = _row_costs(model, plan, max_rows, BUDGET_S)
    if draft is not None:
        measured = replace(measured, model_draft_s=_row_costs(draft.model, draft.plan, 1, DRAFT_BUDGET_S).plain_s)
    costs = Costs(measured, max_rows)
    times = _row_times(plan, costs)
    if plan.taught is not None and times is not None:
        keep_row_times(plan.device.machine, plan.taught.key(plan.artifact), times)
    return costs


def without_hopeless(plan: Plan, costs: Costs | None) -> Plan:
    """The plan without a taught draft or an early exit that cannot win by `costs`; the same plan if it has neither, or
    asks for it by name.

    For a taught draft this is the first run. Later plans know these costs (`DeviceProfile.row_times`).
    """
    if plan.speculation.mode != "auto" or costs is None:
        return plan
    name: str
    if plan.taught is not None:
        name, why = plan.taught.kind, why_hopeless(plan.taught, plan.model.shape, _row_times(plan, costs))
    elif EARLY_EXIT.name in plan.speculation.drafters and costs.ratio("exit-draft"):
        name, why = EARLY_EXIT.name, too_little(exit_speedup(costs))
    else:
        return plan
    if not why:
        return plan
    left = tuple(one for one in plan.speculation.drafters if one != name)
    note = f"{plan.speculation.note}; not drafting: {name}, {why}"
    return replace(plan, taught=None, speculation=replace(plan.speculation, drafters=left, note=note))


def _row_times(plan: Plan, costs: Costs | None) -> RowTimes | None:
    """None where no taught draft was timed."""
    if plan.taught is None or costs is None or not costs.ratio("exit-draft"):
        return None
    rows = range(1, min(costs.max_rows, KEPT_ROWS) + 1)
    verify_s = {n: costs.unit_s * costs.ratio("verify", n) for n in rows}
    return RowTimes(verify_s, costs.unit_s * costs.ratio("exit-draft", DEEPER), plan.taught.n_ranked)


def new_drafting(model: Model, plan: Plan, costs: Costs | None, *, draft: OpenedDraftModel | None = None) -> Drafting:
    """Drafters and a controller for a new conversation, which have learned nothing yet. `costs` come from `measure`."""
    if costs is None:
        return Drafting()
    agreement = plan.taught.agreement if plan.taught else ()
    inputs = DrafterInputs(costs, plan.window, plan.facts.rows_cheap_to_read, draft, agreement)
    with ExitStack() as stack:
        built = []
        for kind in usable_drafters(model, plan, draft):
            built.append(kind.build(inputs))
            stack.callback(built[-1].close)
        return Drafting(
            Auto([one.estimator for one in built], costs),
            {one.drafter.name: one.drafter for one in built},
            stack.pop_all(),
        )


def usable_drafters(model: Model, plan: Plan, draft: OpenedDraftModel | None) -> list[DrafterKind]:
    """The plan's drafters that this model can run. The model may lack an early exit or a taught draft that the plan
    expected.

    Raises UsageError when the draft model is missing or has another tokenizer.
    """
    planned = [kind for kind in drafters.DRAFTERS if kind.name in plan.speculation.drafters]
    needs = {kind.facts.needs for kind in planned}
    if "draft model" in needs:
        if draft is None:
            raise UsageError("speculation `draft` needs a draft model", hint="--draft-model NAME")
        check_same_tokens(model.tokenizer, draft.model.tokenizer)
    of_the_model = ("early exit", "exit draft", "feature draft")
    return [kind for kind in planned if kind.facts.needs not in of_the_model or kind.name == model.drafts_with]


def check_same_tokens(model: Tokenizer, draft: Tokenizer) -> None:
    """Raises UsageError when a token id means different text in the two tokenizers."""
    hint = "the draft model must have the same tokenizer as the model"
    if model.n_vocab != draft.n_vocab:
        raise UsageError(f"the draft model has {draft.n_vocab} tokens, the model has {model.n_vocab}", hint=hint)
    different = [
        token for token in (*range(min(512, model.n_vocab)), *range(512, model.n_vocab, TOKEN_SAMPLE_STEP))
        if model.piece(token) != draft.piece(token)
    ]  # fmt: skip
    if different or model.stop_tokens != draft.stop_tokens:
        what = f"token {different[0]} differs" if different else "the stop tokens differ"
        raise UsageError(f"the draft model has another tokenizer: {what}", hint=hint)


def _row_costs(model: Model, plan: Plan, max_rows: int, budget_s: float) -> RowCosts:
    store = CostStore()
    key = cost_key(
        plan.artifact.source, plan.artifact.file, plan.artifact.revision, plan.artifact.n_bytes, plan.artifact.tier,
        plan.backend, plan.facts.engine_version(), plan.device.chip, model.n_threads, plan.kv_type, max_rows,
        model.exact_rows, model.drafts_with, plan.speculation.exit_layer, plan.taught,
    )  # fmt: skip
    costs = store.load(key)
    if costs is None:
        costs = calibrate(model, max_rows=max_rows, budget_s=budget_s)
        store.save(key, costs)
    return costs
