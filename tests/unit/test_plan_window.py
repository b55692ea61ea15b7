"""The window of a plan."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeinfer.errors import NoPlanError, UsageError
from edgeinfer.plan import Request, make_plan
from edgeinfer.plan.fit import make_policy
from tests.unit.plan_things import GGUF, artifact, catalog, device, model, with_shape


@pytest.mark.parametrize(
    ("context", "sink", "window", "block"),
    [
        (4096, 128, 3968, 496),
        (2048, 128, 1920, 240),  # the demo: all of its context
        (8192, 128, 8064, 1008),
        (16384, 128, 16256, 2032),
        (640, 128, 512, 64),
        (600, 128, 448, 64),  # rounded down to whole blocks
        (300, 44, 256, 64),  # a small context shrinks the sink first
    ],
)
def test_the_window_of_a_context(context: int, sink: int, window: int, block: int) -> None:
    policy = make_policy(with_shape(limit=16384), context, None)
    assert (policy.sink, policy.window, policy.block) == (sink, window, block)


@given(context=st.integers(256, 16384), sink=st.none() | st.integers(0, 2000))
def test_every_policy_is_valid_and_wastes_little(context: int, sink: int | None) -> None:
    try:
        policy = make_policy(with_shape(limit=16384), context, sink)
    except UsageError:
        assert sink is not None and context - sink < 256
        return
    assert policy.slots <= context < policy.slots + 64
    assert policy.block >= 64 and policy.window >= 4 * policy.block and policy.window % policy.block == 0
    assert sink is None or policy.sink == sink


def test_impossible_contexts_are_refused() -> None:
    with pytest.raises(UsageError, match="must not pass the model's 16384 positions; received 20000"):
        make_policy(with_shape(limit=16384), 20000, None)
    with pytest.raises(UsageError, match="received 400 with sink 300"):
        make_policy(with_shape(limit=16384), 400, 300)


def test_a_short_context_uses_the_short_limit() -> None:
    phi = with_shape(limit=131072, short_limit=4096)
    assert make_policy(phi, 4096, None).limit == 4096
    assert make_policy(phi, 4097 + 256, None).limit == 131072


ANY = Request()
SHAPE = with_shape(limit=131072)  # 10,240 bytes of K/V a token
MODELS = catalog(model("m", 1, artifact(1), shape=SHAPE))


def context_of(free_gb: float, request: Request = ANY) -> int:
    return make_plan(device(free_gb), MODELS, [GGUF], request).window.slots


def test_the_window_grows_with_memory_until_it_would_cost_speed() -> None:
    # f16 K/V for 131072 tokens take 1.34 GB: beside 1 GB of weights they would halve the speed of a full chat
    balanced, longest = Request(kv_type="f16"), Request(kv_type="f16", prefer="context")
    assert context_of(1.8, balanced) == 16384
    assert context_of(8, balanced) == 16384
    assert context_of(1.45, balanced) == 4096
    assert context_of(8, longest) == 131072
    assert context_of(2.4, longest) == 65536


def test_a_requested_context_is_used() -> None:
    assert context_of(8, Request(context=6000)) == 6000
    plan = make_plan(device(8), MODELS, [GGUF], Request(context=6001))
    assert plan.window.slots == 6000
    assert any("rounded down from 6001" in line for line in plan.reasons)
    with pytest.raises(NoPlanError, match="more than the"):
        context_of(1.5, Request(context=100000))


def test_a_model_shorter_than_the_context_is_refused_by_name() -> None:
    short = catalog(model("short", 2, artifact(1), shape=with_shape(limit=2048)), model("long", 1, artifact(1)))
    plan = make_plan(device(), short, [GGUF], Request(context=8192))
    assert plan.model.name == "long"
    assert [one.reason for one in plan.rejected] == ["context must not pass the model's 2048 positions; received 8192"]


def test_a_context_that_no_model_could_have_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="received 100 with sink 0") as caught:
        context_of(8, Request(context=100))
    assert caught.value.hint == "--context 256 is the smallest"


def test_a_long_sink_widens_the_context() -> None:
    plan = make_plan(device(1.5), MODELS, [GGUF], Request(sink=3000))
    assert plan.window.sink == 3000 and plan.window.slots >= 6000
