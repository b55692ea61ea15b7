"""From a plan to the controller and the drafters of its decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from edgeinfer.decode.drafters.draft_model import DraftModel, check_same_tokens
from edgeinfer.decode.drafters.early_exit import EarlyExit
from edgeinfer.decode.drafters.gated import ExitSource, Gated
from edgeinfer.decode.drafters.lookup import Lookup
from edgeinfer.decode.policy.arms import NONE, Controller, Fixed
from edgeinfer.decode.policy.calibrate import BUDGET_S, CostStore, calibrate, cost_key
from edgeinfer.decode.policy.controller import Auto
from edgeinfer.decode.policy.costs import Costs, RowCosts
from edgeinfer.decode.policy.offers import Bidder, DepthBids, GatedBids, LookupBids
from edgeinfer.errors import UsageError
from edgeinfer.plan.types import Plan
from edgeinfer.protocols import Drafter, Model
from edgeinfer.window import WindowPolicy

__all__ = ["Draft", "Strategy", "as_draft", "build", "measured_costs"]

_MAX_DRAFTS: Final = 8  # of a drafter that runs a model for each
_DRAFT_WINDOW: Final = 1024
_DRAFT_BUDGET_S: Final = 0.2
_READS_SLOWLY: Final = frozenset({"mlx"})  # backends where looking at a row stops the device


@dataclass(frozen=True, slots=True)
class Strategy:
    controller: Controller
    drafters: Mapping[str, Drafter]
    close: Callable[[], None] = lambda: None  # frees what the drafters own


PLAIN: Final = Strategy(Fixed(NONE), {})


@dataclass(frozen=True, slots=True)
class Draft:
    """The model of `--draft-model`, its plan, and the positions that it was trained for."""

    model: Model
    plan: Plan
    limit: int


def as_draft(model: Model, plan: Plan) -> Draft:
    """Its cache is short: a model that turns its keys otherwise in long contexts (Phi) keeps to the short limit."""
    return Draft(model, plan, plan.model.shape.short_limit or plan.window.limit)


def build(model: Model, plan: Plan, *, draft: Draft | None = None, costs: RowCosts | None = None) -> Strategy:
    """What the decoder of `plan` needs; `costs` come from the store, or are measured now, unless given.

    Raises UsageError for a draft model with another tokenizer.
    """
    wanted = [name for name in plan.speculation.drafters if name != "early-exit" or model.exit_layer is not None]
    max_rows = min(plan.speculation.max_rows, model.exact_rows or plan.speculation.max_rows)
    if plan.speculation.mode == "off" or not wanted or max_rows < 2:
        return PLAIN
    if "draft" in wanted:
        if draft is None:
            raise UsageError("speculation with a draft model needs one", hint="--draft-model NAME")
        check_same_tokens(model.tokenizer, draft.model.tokenizer)
    live = Costs(costs or measured_costs(model, plan, draft, max_rows), max_rows)
    return assemble(plan, draft if "draft" in wanted else None, wanted, live)


def assemble(plan: Plan, draft: Draft | None, wanted: list[str], costs: Costs) -> Strategy:
    max_drafts = min(_MAX_DRAFTS, costs.max_rows - 1)
    drafters: dict[str, Drafter] = {}
    bidders: list[Bidder] = []
    close: Callable[[], None] = PLAIN.close
    if "lookup" in wanted:
        lookup = Lookup(least_match=1)
        drafters[lookup.name] = lookup
        bidders.append(LookupBids(lookup, costs))
    if "early-exit" in wanted and plan.backend in _READS_SLOWLY:
        drafters["early-exit"] = EarlyExit()
        bidders.append(DepthBids("early-exit", costs, max_depth=max_drafts, parts=("exit-draft", "back-short")))
    elif "early-exit" in wanted:
        gated = Gated(ExitSource(), costs)
        drafters[gated.name] = gated
        bidders.append(GatedBids(gated, costs, max_depth=max_drafts))
    if draft is not None:
        source = DraftModel(draft.model, _draft_window(plan.window, draft.limit))
        close = source.close
        gated = Gated(source, costs)
        drafters[gated.name] = gated
        bidders.append(GatedBids(gated, costs, max_depth=max_drafts))
    return Strategy(Auto(bidders, costs), drafters, close)


def measured_costs(model: Model, plan: Plan, draft: Draft | None, max_rows: int) -> RowCosts:
    """Stored costs of these models on this machine, or new ones."""
    costs = _costs_of(model, plan, max_rows, BUDGET_S)
    if draft is None:
        return costs
    return replace(costs, model_draft_s=_costs_of(draft.model, draft.plan, 1, _DRAFT_BUDGET_S).plain_s)


def _costs_of(model: Model, plan: Plan, max_rows: int, budget_s: float) -> RowCosts:
    store = CostStore()
    key = cost_key(
        plan.artifact.source, plan.artifact.file, plan.artifact.revision, plan.artifact.n_bytes, plan.artifact.tier,
        plan.backend, engine_version(plan.backend), plan.device.chip, model.n_threads, plan.kv_type, max_rows,
        model.exit_layer,
    )  # fmt: skip
    costs = store.load(key)
    if costs is None:
        costs = calibrate(model, max_rows=max_rows, budget_s=budget_s)
        store.save(key, costs)
    return costs


def engine_version(backend: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version({"gguf": "llama-cpp-python", "mlx": "mlx"}.get(backend, "edgeinfer"))
    except PackageNotFoundError:
        return ""


def _draft_window(policy: WindowPolicy, limit: int) -> WindowPolicy:
    """The draft model needs no long memory, and knows no more positions than it was trained for."""
    limit = min(policy.limit, limit)
    window = min(policy.window, _DRAFT_WINDOW, limit - policy.sink)
    block = min(policy.block, window // 4)
    if block < 1:
        raise UsageError(
            f"the draft model knows {limit} positions, the window keeps {policy.sink} of the system prompt alone",
            hint="--sink, smaller",
        )
    return WindowPolicy(window=window // block * block, sink=policy.sink, block=block, limit=limit)
