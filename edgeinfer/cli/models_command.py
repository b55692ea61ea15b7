"""`edgeinfer models`: the user's own catalog."""

from __future__ import annotations

import argparse

from edgeinfer.cli.options import add_json_option, model_name
from edgeinfer.cli.output import show, show_json, size, whisper

HELP = "add a model of the Hugging Face hub to your own catalog"
USAGE = "models add MODEL [--name NAME] [--json]"
EXAMPLES = """\
  edgeinfer models add bartowski/SmolLM2-360M-Instruct-GGUF:Q8_0   read its header and give it a name
  edgeinfer models add ./model.gguf --name mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action", choices=("add",), metavar="add", help="write a catalog entry from the header of the file"
    )
    parser.add_argument("model", type=model_name, metavar="MODEL", help="`org/repo`, `org/repo:TIER`, or a path")
    parser.add_argument("--name", default="", help="its name in the catalog; default: made from the file name")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from dataclasses import replace

    from edgeinfer.catalog import append_user_entry, load_catalog, user_models_file
    from edgeinfer.entries.files import entry_of_path, entry_of_repo, name_of
    from edgeinfer.errors import UsageError
    from edgeinfer.hub import parse_name

    name = parse_name(args.model)
    if name.kind == "catalog":
        raise UsageError(f"`{args.model}` is not a repository and not a path", hint="write org/repo, as on the hub")
    if name.path is not None:
        entry = entry_of_path(name.path, load_catalog().models)
    else:
        entry = entry_of_repo(name.name, name.tier, file=name.file, offline=args.offline, known=load_catalog().models)
    entry = replace(entry, name=name_of(args.name or entry.name))
    if load_catalog().find(entry.name) is not None:
        raise UsageError(f"there is a model called {entry.name} already", hint="choose another with --name")
    written = append_user_entry(entry, user_models_file())
    artifact = entry.artifacts[0]
    if args.json:
        show_json({"name": entry.name, "tier": artifact.tier, "n_bytes": artifact.n_bytes, "file": artifact.file})
    else:
        show(entry.name)
    whisper(f"{entry.title}, {artifact.tier}, {size(artifact.n_bytes)}: written to {written}")
    return 0
