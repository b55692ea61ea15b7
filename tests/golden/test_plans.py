"""The plan of every named device, whole, as a person and a program see it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeinfer.catalog import Catalog, load_catalog
from edgeinfer.decode.drafters import drafter_facts
from edgeinfer.device import load_devices
from edgeinfer.plan import Request, default_capabilities, explain, make_plan, to_json

PLANS = Path(__file__).parent / "plans"
NOTHING_OF_MINE = Path(__file__).parent / "no-such-file.toml"
DEVICES = load_devices(NOTHING_OF_MINE)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(NOTHING_OF_MINE)


def text_of(catalog: Catalog, slug: str, request: Request) -> str:
    device = DEVICES.profile(slug)
    plan = make_plan(device, catalog, default_capabilities(device), request, drafters=drafter_facts())
    rest = [f"{one.model} {one.tier} {one.backend}: {one.reason}" for one in plan.rejected]
    return "\n".join([*explain(plan), "", "everything that was not chosen:", *rest, ""])


@pytest.mark.parametrize("slug", DEVICES.devices)
def test_plan_of_device(slug: str, catalog: Catalog, check_golden: Callable[[Path, str], None]) -> None:
    check_golden(PLANS / f"{slug}.txt", text_of(catalog, slug, Request()))


def test_every_golden_plan_has_its_device() -> None:
    assert {file.stem for file in PLANS.glob("*.txt")} == set(DEVICES.devices)


def test_plan_as_json(catalog: Catalog, check_golden: Callable[[Path, str], None]) -> None:
    device = DEVICES.profile("macbook-air-m2-16gb")
    request = Request(model="llama-3.2-1b", context=8192)
    plan = make_plan(device, catalog, default_capabilities(device), request, drafters=drafter_facts())
    check_golden(PLANS / "macbook-air-m2-16gb.json", json.dumps(to_json(plan), indent=1) + "\n")
