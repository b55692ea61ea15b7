"""`edgeinfer verify`: whether a phone bundle is what its manifest says."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgeinfer.cli.options import add_json_option
from edgeinfer.cli.output import show, show_json, size

HELP = "check a phone bundle: digests, recorded answers, exactness, memory"
USAGE = "verify FOLDER [--json]"
EXAMPLES = """\
  edgeinfer verify ./demo-phone   exit code 4 when a file or an answer differs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="what `edgeinfer export` wrote")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from edgeinfer.backends.executorch.verify import verify_bundle

    verified = verify_bundle(args.folder)
    manifest = verified.manifest
    if args.json:
        show_json(
            {
                "bundle": str(args.folder),
                "name": manifest.name,
                "tier": manifest.tier,
                "files": {name: file.sha256 for name, file in manifest.files.items()},
                "golden_tokens": verified.n_tokens,
                "worst_logit_difference": verified.worst_difference,
                "exact_rows": verified.exact_rows,
                "exact_rows_recorded": manifest.exact_rows,
                "resident_bytes": verified.resident_bytes,
            }
        )
        return 0
    show(f"{args.folder}: {manifest.name}, {manifest.tier}")
    show(f"  files      {len(manifest.files)}, as the manifest says")
    show(f"  answers    {golden_line(verified.n_tokens, verified.worst_difference)}")
    show(f"  exactness  {verified.exact_rows} rows of a round equal single rows (recorded: {manifest.exact_rows})")
    show(f"  memory     {size(verified.resident_bytes)} more than before it was loaded")
    return 0


def golden_line(n_tokens: int, worst: float) -> str:
    if not n_tokens:
        return "none recorded"
    return f"{n_tokens} recorded tokens, plain and in rounds; logits within {worst:.4f}"
