"""The printed plan of every named device; for one device also the JSON with every refusal."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgeinfer.backends import FACTS
from edgeinfer.catalog import Catalog, load_catalog
from edgeinfer.decode.drafters import drafter_facts
from edgeinfer.device import load_devices
from edgeinfer.plan import Plan, Request, explain, make_plan, to_json
from edgeinfer.plan.report import details, list_refusals, list_sources

PLANS = Path(__file__).parent / "plans"
NOTHING_OF_MINE = Path(__file__).parent / "no-such-file.toml"
DEVICES = load_devices(NOTHING_OF_MINE)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog(NOTHING_OF_MINE)


def plan_of(catalog: Catalog, slug: str, request: Request) -> Plan:
    offered = [facts for facts in FACTS if not facts.on_request_only]
    return make_plan(DEVICES.profile(slug), catalog, offered, request, drafters=drafter_facts())


@pytest.mark.parametrize("slug", DEVICES.devices)
def test_plan_of_device(slug: str, catalog: Catalog, check_golden: Callable[[Path, str], None]) -> None:
    plan = plan_of(catalog, slug, Request())
    check_golden(PLANS / f"{slug}.txt", "\n".join([*explain(plan), "", *details(plan)]) + "\n")


def test_every_refusal_on_one_device(catalog: Catalog, check_golden: Callable[[Path, str], None]) -> None:
    refusals = list_refusals(plan_of(catalog, "macbook-air-m2-16gb", Request()))
    check_golden(PLANS / "all-refusals" / "macbook-air-m2-16gb.txt", "\n".join(refusals) + "\n")


def test_the_sources_of_the_figures(catalog: Catalog, check_golden: Callable[[Path, str], None]) -> None:
    sources = list_sources(plan_of(catalog, "macbook-air-m2-16gb", Request()))
    check_golden(PLANS / "sources" / "macbook-air-m2-16gb.txt", "\n".join(sources) + "\n")


def test_every_golden_plan_has_its_device() -> None:
    assert {file.stem for file in PLANS.glob("*.txt")} == set(DEVICES.devices)


def test_plan_as_json(catalog: Catalog, check_golden: Callable[[Path, str], None]) -> None:
    plan = plan_of(catalog, "macbook-air-m2-16gb", Request(model="llama-3.2-1b", context=8192))
    check_golden(PLANS / "macbook-air-m2-16gb.json", json.dumps(to_json(plan), indent=1) + "\n")
