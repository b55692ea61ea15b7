"""`edgeinfer plan`: what would run on this machine or a named device, and why."""

from __future__ import annotations

import argparse

from edgeinfer.cli.options import add_json_option, add_plan_options, count, plan_for_server, request_from, take_name
from edgeinfer.cli.output import show, show_json
from edgeinfer.errors import UsageError

HELP = "show which model fits a device, why, and what was refused"
USAGE = "plan [MODEL] [--device SLUG] [--context N] [--all] [--sources] [--json] [...]"
EXAMPLES = """\
  edgeinfer plan                                the choice for this machine
  edgeinfer plan --device iphone-15-pro --json  the choice for a phone, for a program
  edgeinfer plan --all --sources                every reason and refusal, and the sources of the figures
  edgeinfer plan --devices                      the devices that are known by name
  edgeinfer plan --model llama-3.1-8b --context 8192
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", default="", metavar="MODEL", help="the same as --model")
    add_plan_options(parser)
    parser.add_argument("--device", default="", metavar="SLUG", help="plan for this device instead of this machine")
    parser.add_argument("--devices", action="store_true", help="list the devices that are known by name")
    parser.add_argument("--sources", action="store_true", help="also show the sources of the figures")
    parser.add_argument(
        "--conversations", type=count, default=1, metavar="N", help="answers that `serve` runs at once (1)"
    )
    parser.add_argument("--all", action="store_true", help="also show every reason and every refusal")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    if args.devices and args.device:
        raise UsageError("--devices lists all of them and --device plans for one", hint="give one of the two")
    if args.devices:
        return list_devices(as_json=args.json)
    if args.conversations > 1:
        plan_for_server(args)
    import edgeinfer
    from edgeinfer.plan import explain, to_json
    from edgeinfer.plan.report import details, list_refusals, list_sources

    take_name(args)
    plan = edgeinfer.choose(request_from(args), device=args.device)
    if args.json:
        show_json(to_json(plan))
    else:
        lines = explain(plan)
        if args.all:
            lines += ["", *details(plan)]
        if args.sources:
            lines += ["", *(f"source: {line}" for line in list_sources(plan))]
        if args.all:
            lines += ["", *(f"not chosen: {line}" for line in list_refusals(plan))]
        if not (args.all or args.sources):
            lines += ["", "`--all` shows every reason and refusal"]
        show("\n".join(lines))
    return 0


def list_devices(*, as_json: bool) -> int:
    from edgeinfer.cli.output import table
    from edgeinfer.device import load_devices

    devices = load_devices()
    if as_json:
        show_json(
            [
                {"slug": slug, "title": device.title, "os": device.os, "total_bytes": profile.total_bytes}
                for slug, device in devices.devices.items()
                if (profile := devices.profile(slug))
            ]
        )
    else:
        rows = [[slug, device.title] for slug, device in devices.devices.items()]
        show(table(rows, head=("slug", "device")))
    return 0
