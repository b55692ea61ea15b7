"""A model opened for a measurement: planned as `chat` would plan it, speculation off."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgeinfer import backends
from edgeinfer.errors import ArtifactError
from edgeinfer.plan.types import Plan, Request
from edgeinfer.protocols import Model
from edgeinfer.runner.choose import choose
from edgeinfer.runner.opening import local_path
from edgeinfer.types import KV_CHOICES


@dataclass(frozen=True, slots=True)
class OpenedModel:
    plan: Plan
    model: Model
    versions: Mapping[str, str]


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="demo", metavar="NAME|PATH", help="default: demo")
    parser.add_argument("--context", type=int, metavar="N", help="sink + window, in tokens")
    parser.add_argument("--kv-type", choices=KV_CHOICES, help="how K and V are kept")
    parser.add_argument("--backend", default="", metavar="NAME", help="one of those that `edgeinfer doctor` lists")


def request_of(args: argparse.Namespace) -> Request:
    return Request(
        model=args.model,
        backend=args.backend,
        context=args.context,
        kv_type=args.kv_type,
        speculation="off",
        force=True,
    )


@contextmanager
def opened(request: Request) -> Iterator[OpenedModel]:
    """The model of the plan for `request` on this machine; closed at the end. Downloads nothing."""
    plan = choose(request, offline=True)
    backend = backends.get(plan.backend)
    model = backend.load(plan, path_of(plan))
    try:
        yield OpenedModel(plan, model, backend.probe().versions)
    finally:
        model.close()


def path_of(plan: Plan) -> Path:
    path = local_path(plan.artifact)
    if path is None:
        raise ArtifactError(f"{plan.model.name} is not on this machine", hint=f"edgeinfer pull {plan.model.name}")
    return path
