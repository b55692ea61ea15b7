"""`edgeinfer serve` before it loads anything: which models, in how much memory."""

from __future__ import annotations

import argparse

import pytest

from edgeinfer.cli import serve_command
from edgeinfer.cli.options import plan_for_server
from edgeinfer.cli.parser import Parser
from edgeinfer.errors import UsageError


def parsed(*words: str) -> tuple[argparse.Namespace, list[str]]:
    parser = Parser()
    serve_command.add_arguments(parser)
    args = parser.parse(["--offline", *words])
    plan_for_server(args)
    return args, [*args.names, *args.model]


def test_the_second_model_gets_the_memory_that_the_first_leaves() -> None:
    first, second = serve_command.plans_of(*parsed("demo", "--model", "smollm2-135m", "--conversations", "2"))
    assert [first.model.name, second.model.name] == ["demo", "smollm2-135m"]
    assert first.n_conversations == second.n_conversations == 2
    # available memory may change between the two plans, but by less than the demo's size
    assert abs(first.budget_bytes - second.budget_bytes - first.estimate.total_bytes) < first.estimate.total_bytes / 2
    assert second.window.slots <= 4096  # a larger first model would leave nothing for a third


def test_a_single_model_may_use_all_memory() -> None:
    (alone,) = serve_command.plans_of(*parsed("demo"))
    assert alone.window.slots == 2048


def test_flags_for_one_model_are_refused_with_several() -> None:
    with pytest.raises(UsageError, match="--tier is for one model, and there are 2") as refused:
        serve_command.plans_of(*parsed("demo", "smollm2-135m", "--tier", "Q4_0"))
    assert "MODEL:TIER" in refused.value.hint


def test_two_models_with_the_same_name_are_refused() -> None:
    with pytest.raises(UsageError, match="two models are called `demo`"):
        serve_command.plans_of(*parsed("demo", "demo:Q4_0"))


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http"])
def test_a_port_is_checked_before_a_model_is_loaded(port: str) -> None:
    with pytest.raises(UsageError, match="a port from 1 to 65535"):
        parsed("demo", "--port", port)
    assert parsed("demo", "--port", "65535")[0].port == 65535
