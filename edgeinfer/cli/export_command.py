"""`edgeinfer export`: a model as one folder that an app can ship."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.cli.options import model_name
from edgeinfer.cli.output import say, show, size
from edgeinfer.errors import UsageError
from edgeinfer.formats.manifest import KV_TYPES

if TYPE_CHECKING:
    from edgeinfer.backends.executorch.export.bundle import Storage
    from edgeinfer.backends.executorch.export.quantize import Tier
    from edgeinfer.formats.draft_file import DraftFile

HELP = "make a phone bundle of a model"
USAGE = "export MODEL --out FOLDER [--tier TIER] [--kv-type TYPE] [--draft FILE] [--device NAME]"
EXAMPLES = """\
  edgeinfer export demo --out demo-phone                        4-bit weights, like those of the demo's file
  edgeinfer export ./model.gguf --tier 8da8w --out model-phone  8-bit weights
  edgeinfer export demo --kv-type q8_0 --out demo-phone         K and V in 8 bits, for longer contexts
  edgeinfer export ./model.gguf --draft model.draft.safetensors --out model-phone   with a draft that was taught to it
  edgeinfer export demo --device iphone-15-pro --out demo-phone
  edgeinfer export demo --target coreml --out demo-coreml       for Core ML; never run
  edgeinfer chat --model ./demo-phone                           run the bundle on this machine
"""
TIERS: tuple[Tier, ...] = ("8da4w", "8da8w", "fp32")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", type=model_name, metavar="MODEL", help="a catalog name, a .gguf file or a Hugging Face folder"
    )
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="the bundle; must not exist yet")
    parser.add_argument("--tier", default="", choices=("", *TIERS), metavar="TIER", help=f"{', '.join(TIERS)} (8da4w)")
    parser.add_argument(
        "--target",
        default="xnnpack",
        choices=("xnnpack", "coreml"),
        metavar="TARGET",
        help="xnnpack, for the processor, or coreml, in float16 and never run (xnnpack)",
    )
    parser.add_argument(
        "--kv-type", default="", choices=("", *KV_TYPES), metavar="TYPE", help=f"K and V: {', '.join(KV_TYPES)} (f32)"
    )
    draft = parser.add_mutually_exclusive_group()
    draft.add_argument(
        "--draft",
        default=None,
        type=Path,
        metavar="FILE",
        help="a draft that was taught to the model (the catalog's, or MODEL.draft.safetensors beside it)",
    )
    draft.add_argument("--no-draft", action="store_true", help="leave out the draft that was taught to the model")
    parser.add_argument(
        "--device",
        default="",
        metavar="NAME",
        help="show how the bundle fits this phone, and refuse it if it does not fit",
    )
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("-y", "--yes", action="store_true", help="download without asking")


def run(args: argparse.Namespace) -> int:
    from edgeinfer.backends.executorch.export.source import open_source
    from edgeinfer.runner.exporting import export

    storage = storage_of(args)
    model = model_path(args, storage)
    open_source(model)  # refuses a model that cannot be exported
    storage = replace(storage, draft=draft_of_bundle(args, model))
    if args.device:
        say(device_line(args, storage, model))
    say(f"exporting {model.name} as {storage.tier}: this takes minutes")
    manifest = export(model, args.out, storage)
    total = sum(file.n_bytes for file in manifest.files.values())
    show(str(args.out))
    say(
        f"{size(total)}; {manifest.memory.kv_bytes_per_position:,} bytes of K and V ({manifest.kv_type}) "
        "for each position of context"
    )
    if storage.draft is not None:
        say(f"with the {storage.draft.kind} draft that was taught to {storage.draft.base_model}")
    if args.target == "coreml":
        say("note: the program was lowered for Core ML, but not run")
    elif not manifest.golden:
        say("note: the engine cannot run on this machine, so there are no golden answers for `edgeinfer verify`")
    return 0


def storage_of(args: argparse.Namespace) -> Storage:
    """Raises UsageError for what the target does not have."""
    from edgeinfer.backends.executorch.export.bundle import Storage

    if args.target == "xnnpack":
        return Storage(args.tier or TIERS[0], args.kv_type or KV_TYPES[0])
    if args.tier:
        raise UsageError(
            f"--target coreml has no tier {args.tier}: its weights are in float16", hint="leave out --tier"
        )
    if args.kv_type not in ("", "f32"):
        raise UsageError(
            f"--target coreml does not take --kv-type {args.kv_type}: K and V are float32 inputs and outputs",
            hint="leave out --kv-type",
        )
    return Storage("fp16")


def draft_of_bundle(args: argparse.Namespace, model: Path) -> DraftFile | None:
    """The taught draft that goes into the bundle. Raises UsageError for one that the target does not take."""
    from edgeinfer.runner.exporting import found_draft
    from edgeinfer.runner.planned_export import entry_of

    if args.no_draft:
        return None
    if args.target == "coreml" and args.draft is not None:
        raise UsageError("--target coreml does not take --draft: its programs do not draft", hint="leave out --draft")
    found = found_draft(entry_of(args.model, model, offline=args.offline), args.draft)
    if found.left_out:
        say(f"note: exporting without a draft: {found.left_out}")
    return found.file if args.target == "xnnpack" else None


def device_line(args: argparse.Namespace, storage: Storage, model: Path) -> str:
    """What the bundle will be on the device. Raises NoPlanError where it does not fit."""
    from edgeinfer.runner.planned_export import plan_export

    plan = plan_export(model, storage, args.device)
    return (
        f"on {plan.device.name}: {size(plan.estimate.total_bytes)} of {size(plan.budget_bytes)}, "
        f"a context of {plan.window.slots:,} tokens, about {plan.tokens_per_s:.0f} tokens/s"
    )


def model_path(args: argparse.Namespace, storage: Storage) -> Path:
    """The file that the bundle is made from, fetched when a name is given."""
    named = Path(args.model)
    if named.exists():
        return named
    import edgeinfer
    from edgeinfer.cli.opening import downloads_from
    from edgeinfer.runner.opening import bring
    from edgeinfer.runner.planned_export import plan_named_export, source_request

    source = source_request(args.model, offline=args.offline)
    if args.device:
        plan_named_export(args.model, storage, args.device, offline=args.offline)  # refuses before the download
    with downloads_from(args) as downloads:
        return bring(edgeinfer.choose(source, offline=args.offline), downloads)
