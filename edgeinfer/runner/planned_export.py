"""How a phone bundle would run, before it is exported."""

from __future__ import annotations

from pathlib import Path

from edgeinfer.backends.executorch.export.sizes import program_bytes
from edgeinfer.backends.executorch.export.source import open_source
from edgeinfer.backends.executorch.facts import FACTS
from edgeinfer.catalog import load_catalog
from edgeinfer.catalog.entry import Artifact, LayerKv, ModelEntry, ModelShape
from edgeinfer.decode.drafters import drafter_facts
from edgeinfer.device import named
from edgeinfer.entries.files import RANK_SOURCE
from edgeinfer.plan import Plan, Request, make_plan
from edgeinfer.types import Sampling

__all__ = ["plan_export"]


def plan_export(model: Path, tier: str, device: str) -> Plan:
    """How the bundle of `model` would run on a device of `devices.toml`. Raises NoPlanError where it does not fit."""
    shape = open_source(model).shape
    name = f"{model.stem.lower()}-export"
    entry = ModelEntry(
        name=name,
        title=model.stem,
        license="",
        gated=False,
        rank=0,
        rank_source=RANK_SOURCE,
        shape=ModelShape(
            architecture=shape.architecture,
            n_layers=shape.n_layers,
            hidden=shape.hidden,
            n_heads=shape.n_heads,
            n_ffn=shape.n_ffn,
            n_vocab=shape.n_vocab,
            limit=shape.limit,
            kv=(LayerKv(shape.n_layers, shape.n_kv_heads, shape.head_dim),),
            n_params=shape.n_params,
            n_active_params=shape.n_params,
        ),
        sampling=Sampling(),
        artifacts=(Artifact(FACTS.name, tier, program_bytes(shape, tier), repo="", file=str(model), exact=False),),
        exit_layer=shape.exit_layer,
    )
    catalog = load_catalog().with_model(entry)
    return make_plan(named(device), catalog, [FACTS], Request(model=name), drafters=drafter_facts())
