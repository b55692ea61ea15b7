"""`edgeinfer export`: a model as one folder that an app can ship."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeinfer.cli.options import model_name
from edgeinfer.cli.output import say, show, size
from edgeinfer.errors import UsageError

HELP = "make a phone bundle of a model"
USAGE = "export MODEL --out FOLDER [--tier TIER] [--device NAME]"
EXAMPLES = """\
  edgeinfer export demo --out demo-phone                        4-bit weights, as the demo's file has them
  edgeinfer export ./model.gguf --tier 8da8w --out model-phone  8-bit weights
  edgeinfer export demo --device iphone-15-pro --out demo-phone
  edgeinfer export demo --target coreml --out demo-coreml       for Core ML; not run here
  edgeinfer chat --model ./demo-phone                           the bundle, run here
"""
TIERS = ("8da4w", "8da8w", "fp32")


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
        help="xnnpack, which runs on the processor, or coreml, in float16 and never run (xnnpack)",
    )
    parser.add_argument(
        "--device", default="", metavar="NAME", help="say how the bundle fits this phone, and refuse it if it does not"
    )
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.add_argument("-y", "--yes", action="store_true", help="download without asking")


def run(args: argparse.Namespace) -> int:
    from edgeinfer.backends.executorch.export.source import open_source
    from edgeinfer.runner.exporting import export

    args.tier = tier_of(args)
    model = model_path(args)
    open_source(model)  # refuses at once what cannot be exported
    if args.device:
        say(device_line(args, model))
    say(f"exporting {model.name} as {args.tier}: this takes minutes")
    manifest = export(model, args.out, args.tier)
    total = sum(file.n_bytes for file in manifest.files.values())
    show(str(args.out))
    say(f"{size(total)}; {manifest.memory.kv_bytes_per_position:,} bytes of K and V for each position of context")
    if args.target == "coreml":
        say("note: nothing here runs Core ML: the program was lowered, and not run")
    elif not manifest.golden:
        say("note: no golden answers are recorded: the engine cannot run here, so `edgeinfer verify` compares none")
    return 0


def tier_of(args: argparse.Namespace) -> str:
    """Raises UsageError for a tier that the target does not have."""
    if args.target == "xnnpack":
        return args.tier or TIERS[0]
    if args.tier:
        raise UsageError(
            f"--target coreml has no tier {args.tier}: its weights are in float16", hint="leave out --tier"
        )
    return "fp16"


def device_line(args: argparse.Namespace, model: Path) -> str:
    """What the bundle will be on the device. Raises NoPlanError where it does not fit."""
    from edgeinfer.runner.planned_export import plan_export

    plan = plan_export(model, args.tier, args.device)
    return (
        f"on {plan.device.name}: {size(plan.estimate.total_bytes)} of {size(plan.budget_bytes)}, "
        f"a context of {plan.window.slots:,} tokens, about {plan.tokens_per_s:.0f} tokens/s"
    )


def model_path(args: argparse.Namespace) -> Path:
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
        plan_named_export(args.model, args.tier, args.device, offline=args.offline)  # refuses before the download
    with downloads_from(args) as downloads:
        return bring(edgeinfer.choose(source, offline=args.offline), downloads)
