"""Properties of plans that hold for every device and every catalog."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgeinfer.catalog import Catalog, ModelEntry
from edgeinfer.errors import NoPlanError
from edgeinfer.plan import Plan, Request, make_plan
from tests.unit.plan_things import GGUF, MLX, SHAPE, TIERS, artifact, catalog, device, model

TIER_OF_BACKEND = [("gguf", "Q4_0"), ("gguf", "Q4_K_M"), ("gguf", "Q8_0"), ("mlx", "mlx-4bit-g64"), ("mlx", "Q4_0")]


@st.composite
def models(draw: st.DrawFn, rank: int) -> ModelEntry:
    kinds = draw(st.lists(st.sampled_from(TIER_OF_BACKEND), min_size=1, max_size=4, unique=True))
    artifacts = [artifact(draw(st.floats(0.1, 60)), tier, backend) for backend, tier in kinds]
    total = draw(st.integers(10**8, 10**11))
    shape = replace(
        SHAPE,
        n_layers=draw(st.integers(1, 80)),
        limit=draw(st.sampled_from([512, 2048, 8192, 131072])),
        n_params=total,
        n_active_params=draw(st.integers(total // 20, total)),
    )
    return model(f"m{rank}", rank, *artifacts, shape=shape)


CATALOGS = (
    st.integers(1, 5).flatmap(lambda n: st.tuples(*(models(rank) for rank in range(n)))).map(lambda m: catalog(*m))
)
SIZES = st.floats(0.2, 200)
SPEEDS = st.floats(0.5, 1000)
PREFER = st.sampled_from(["balanced", "quality", "context"])


def plan_or_none(known: Catalog, free_gb: float, gb_per_s: float, request: Request) -> Plan | None:
    try:
        return make_plan(device(free_gb, gb_per_s), known, [GGUF, MLX], request)
    except NoPlanError:
        return None


def quality(plan: Plan | None) -> tuple[int, int]:
    return (plan.model.rank, TIERS[plan.artifact.tier].order) if plan else (-1, -1)


@settings(deadline=None, max_examples=60)
@given(CATALOGS, SIZES, SIZES, SPEEDS, SPEEDS, PREFER)
def test_more_memory_or_bandwidth_never_lowers_rank_and_tier(
    known: Catalog, a_gb: float, b_gb: float, a_speed: float, b_speed: float, prefer: str
) -> None:
    request = Request(prefer=prefer)  # type: ignore[arg-type]
    less = plan_or_none(known, min(a_gb, b_gb), min(a_speed, b_speed), request)
    more = plan_or_none(known, max(a_gb, b_gb), max(a_speed, b_speed), request)
    assert quality(more) >= quality(less)


@settings(deadline=None, max_examples=60)
@given(CATALOGS, SIZES, SPEEDS, PREFER)
def test_the_estimate_fits_and_the_speed_is_usable(known: Catalog, gb: float, speed: float, prefer: str) -> None:
    plan = plan_or_none(known, gb, speed, Request(prefer=prefer))  # type: ignore[arg-type]
    if plan:
        assert plan.estimate.total_bytes <= plan.budget_bytes <= gb * 1e9
        assert plan.expected_tokens_per_s >= (2 if prefer == "quality" else 8)


@settings(deadline=None, max_examples=60)
@given(CATALOGS, SIZES, SPEEDS, st.booleans())
def test_every_candidate_is_chosen_or_rejected_with_a_reason(
    known: Catalog, gb: float, speed: float, force: bool
) -> None:
    everything = sorted((one.name, file.tier, file.backend) for one in known.models for file in one.artifacts)
    try:
        plan = make_plan(device(gb, speed), known, [GGUF, MLX], Request(force=force))
    except NoPlanError as error:
        assert everything == sorted((one["model"], one["tier"], one["backend"]) for one in error.rejected)
        return
    told = [(one.model, one.tier, one.backend) for one in plan.rejected]
    assert everything == sorted([*told, (plan.model.name, plan.artifact.tier, plan.backend)])
    assert all(one.reason for one in plan.rejected)


@settings(deadline=None, max_examples=60)
@given(CATALOGS, SIZES, SPEEDS)
def test_equal_requests_give_equal_plans(known: Catalog, gb: float, speed: float) -> None:
    assert plan_or_none(known, gb, speed, Request()) == plan_or_none(known, gb, speed, Request())
