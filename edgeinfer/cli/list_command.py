"""`edgeinfer list`: the models on this machine, or those of the catalog."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.cli.options import add_json_option
from edgeinfer.cli.output import show, show_json, size, table, whisper
from edgeinfer.text import shown

if TYPE_CHECKING:
    from edgeinfer.catalog import Catalog

HELP = "list the models on this machine, or in the catalog"
USAGE = "list [--catalog] [--json]"
EXAMPLES = """\
  edgeinfer list             the models on this machine
  edgeinfer list --catalog   the models of the catalog, best first
  edgeinfer list --json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--catalog", action="store_true", help="list the catalog, not the models on this machine")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from edgeinfer.catalog import load_catalog

    catalog = load_catalog()
    rows = catalog_rows(catalog) if args.catalog else here_rows(catalog)
    if args.json:
        show_json(rows)
        return 0
    columns = ("name", "tiers", "license", "title") if args.catalog else ("name", "tier", "n_bytes", "where")
    cells = [[size(value) if isinstance(value := row[key], int) else str(value) for key in columns] for row in rows]
    show(shown(table(cells, head=tuple("size" if key == "n_bytes" else key for key in columns))))
    if not args.catalog:
        whisper("`edgeinfer list --catalog` shows what can be pulled")
    return 0


def catalog_rows(catalog: Catalog) -> list[dict[str, object]]:
    return [
        {
            "name": model.name,
            "title": model.title,
            "license": model.license,
            "gated": model.gated,
            "rank": model.rank,
            "tiers": " ".join(dict.fromkeys(artifact.tier for artifact in model.artifacts)),
        }
        for model in reversed(catalog.models)
    ]


def here_rows(catalog: Catalog) -> list[dict[str, object]]:
    """Embedded models, the user's own files, and the cache. A file of the catalog is listed under its catalog name."""
    from edgeinfer.hub import installed, installed_packages

    known = {(file.repo, file.file): (model.name, file.tier) for model in catalog.models for file in model.artifacts}
    embedded = {
        (model.name, file.tier): file.n_bytes for model in catalog.models for file in model.artifacts if file.embedded
    }
    rows: list[dict[str, object]] = [
        {"name": name, "tier": tier, "n_bytes": n_bytes, "where": "inside edgeinfer"}
        for (name, tier), n_bytes in embedded.items()
    ]
    own = {
        (model.name, file.tier): file
        for model in catalog.models
        for file in model.artifacts
        if not (file.source or file.embedded)
    }
    for (name, tier), file in own.items():
        gone = "" if Path(file.file).exists() else " (not there any more)"
        rows.append({"name": name, "tier": tier, "n_bytes": file.n_bytes, "where": f"{file.file}{gone}"})
    for model in installed_packages():
        named = (
            (entry.name, file.tier)
            for entry in catalog.models
            for file in entry.artifacts
            if file.package == model.repo and file.file.rpartition("/")[2] == model.file
        )
        name, tier = next(named, (model.repo, model.file))
        rows.append({"name": name, "tier": tier, "n_bytes": model.n_bytes, "where": str(model.path)})
    for model in installed():
        name, tier = known.get((model.repo, model.file), (model.repo, ""))
        rows.append({"name": name, "tier": tier or model.file, "n_bytes": model.n_bytes, "where": str(model.path)})
    return rows
