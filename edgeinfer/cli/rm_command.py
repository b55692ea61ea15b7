"""`edgeinfer rm`: remove a model from the Hugging Face cache."""

from __future__ import annotations

import argparse

from edgeinfer.cli.options import model_name
from edgeinfer.cli.output import near, size, whisper

HELP = "remove a model from this machine's cache"
USAGE = "rm MODEL [--tier TIER]"
EXAMPLES = """\
  edgeinfer rm qwen3-4b                       all its files on this machine
  edgeinfer rm unsloth/Qwen3-4B-GGUF:Q4_K_M   one file
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=model_name, metavar="MODEL", help="a catalog name, `org/repo` or `org/repo:TIER`")
    parser.add_argument("--tier", default="", help="only this tier")


def run(args: argparse.Namespace) -> int:
    from edgeinfer import backends
    from edgeinfer.catalog import load_catalog
    from edgeinfer.errors import ModelNotFoundError, UsageError
    from edgeinfer.hub import installed, installed_packages, is_of_tier, parse_name, remove, remove_package

    catalog = load_catalog()
    name = parse_name(args.model, [model.name for model in catalog.models], listed_by="edgeinfer list")
    if name.path is not None:
        raise UsageError(f"`{name.path}` is not in the cache: only you can delete it", hint=f"rm {name.path}")
    tier = (name.tier or args.tier).upper()
    entry = catalog.find(name.name)
    if entry is not None and any(artifact.embedded for artifact in entry.artifacts):
        raise UsageError(
            f"{entry.name} is a part of edgeinfer and cannot be removed", hint="`edgeinfer list` shows what can"
        )
    if entry is not None and not any(artifact.source for artifact in entry.artifacts):
        from edgeinfer.catalog import user_models_file

        raise UsageError(
            f"{entry.name} is a file of yours, {entry.artifacts[0].file}: only you can delete it",
            hint=f"its entry is in {user_models_file()}",
        )
    wanted = (
        {(file.repo, file.file) for file in entry.artifacts if tier in ("", file.tier.upper())}
        if entry
        else {
            (model.repo, model.file)
            for model in installed()
            if model.repo == name.name and (not tier or is_of_tier(model.file, tier)) and name.file in ("", model.file)
        }
    )
    packages = {file.package for file in entry.artifacts if tier in ("", file.tier.upper())} if entry else set()
    packed = [model for model in installed_packages() if model.repo in packages]
    here = [model for model in installed() if (model.repo, model.file) in wanted]
    if not here and not packed:
        names = [model.repo for model in installed()]
        raise ModelNotFoundError(
            f"{args.model} is not on this machine", hint=near(args.model, names) or "`edgeinfer list` shows what is"
        )
    for model in [*here, *packed]:
        for facts in backends.FACTS:
            backends.get(facts.name).forget(model.path)
    for repo, file in dict.fromkeys((model.repo, model.file) for model in here):
        freed = remove(repo, file)
        whisper(f"removed {repo}{'/' if file else ''}{file}: {size(freed)} free again")
    for model in packed:
        whisper(f"removed {model.repo}: {size(remove_package(model.repo))} free again")
    return 0
