"""`edgeinfer pull`: download a model's file into the Hugging Face cache."""

from __future__ import annotations

import argparse
import sys

from edgeinfer.cli.options import model_name
from edgeinfer.cli.output import show, whisper

HELP = "download a model, after showing its size"
USAGE = "pull MODEL [--tier TIER] [--backend NAME] [--yes] [--offline]"
EXAMPLES = """\
  edgeinfer pull qwen3-4b                       the tier that fits this machine best
  edgeinfer pull qwen3-4b --tier Q8_0
  edgeinfer pull unsloth/Qwen3-4B-GGUF:Q4_K_M   one file of a repository
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=model_name, metavar="MODEL", help="a catalog name, `org/repo` or `org/repo:TIER`")
    parser.add_argument("--tier", default="", help="the quantization, such as Q4_K_M")
    parser.add_argument("--backend", default="", metavar="NAME", help="gguf or mlx: the kind of file")
    parser.add_argument("--offline", action="store_true", help="print where the file is, without downloading")
    parser.add_argument("-y", "--yes", action="store_true", help="download without asking")


def run(args: argparse.Namespace) -> int:
    import edgeinfer
    from edgeinfer.cli.opening import downloads_from
    from edgeinfer.errors import BackendError, NoPlanError
    from edgeinfer.runner.opening import bring

    args.yes = args.yes or not sys.stdin.isatty()  # in a script, the command itself is the consent
    request = edgeinfer.Request(model=args.model, tier=args.tier, backend=args.backend, force=True)
    try:
        plan = edgeinfer.choose(request, offline=args.offline)
    except (BackendError, NoPlanError) as error:
        plan = edgeinfer.choose(request, offline=args.offline, installed_only=False)
        whisper(f"(this machine cannot run it yet: {error})")
    if plan.forced:
        whisper("note: this model needs more memory than this machine has")
    with downloads_from(args) as downloads:
        show(str(bring(plan, downloads)))
    return 0
