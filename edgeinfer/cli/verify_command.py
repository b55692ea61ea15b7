"""`edgeinfer verify`: whether a phone bundle is what its manifest says."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from edgeinfer.cli.options import add_json_option
from edgeinfer.cli.output import show, show_json, size

if TYPE_CHECKING:
    from edgeinfer.runner.parity import Parity

HELP = "check a phone bundle: digests, recorded answers, exactness, memory"
USAGE = "verify FOLDER [--parity FILE.gguf] [--json]"
EXAMPLES = """\
  edgeinfer verify ./demo-phone                        exit code 4 when a file or an answer differs
  edgeinfer verify ./demo-phone --parity demo.gguf     also compare with the file it was made from, on other backends
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="what `edgeinfer export` wrote, or a .zip of its files"
    )
    parser.add_argument(
        "--parity", type=Path, metavar="FILE.gguf", help="the file it was made from: compare with it on other backends"
    )
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    from edgeinfer.backends.executorch.verify import verify_bundle

    verified = verify_bundle(args.folder)
    compared = _parity(args.folder, args.parity) if args.parity else ()
    manifest = verified.manifest
    if args.json:
        show_json(
            {
                "bundle": str(args.folder),
                "name": manifest.name,
                "tier": manifest.tier,
                "kv_type": manifest.kv_type,
                "files": {name: file.sha256 for name, file in manifest.files.items()},
                "golden_tokens": verified.n_tokens,
                "worst_logit_difference": verified.worst_difference,
                "draft": manifest.draft.kind if manifest.draft else None,
                "exact_rows": verified.exact_rows,
                "exact_rows_recorded": manifest.exact_rows,
                "resident_bytes": verified.resident_bytes,
                "parity": [asdict(one) for one in compared],
            }
        )
        return 0
    show(f"{args.folder}: {manifest.name}, {manifest.tier}, K and V in {manifest.kv_type}")
    show(f"  files      {len(manifest.files)}, as the manifest says")
    show(f"  answers    {golden_line(verified.n_tokens, verified.worst_difference)}")
    if manifest.draft is not None:
        show(f"  drafts     by the {manifest.draft.kind} draft that was taught to {manifest.draft.base_model}")
    show(f"  exactness  {verified.exact_rows} rows of a round equal single rows (recorded: {manifest.exact_rows})")
    show(f"  memory     {size(verified.resident_bytes)} more than before it was loaded")
    for one in compared:
        show(
            f"  {one.backend:<10} {one.nats:.4f} nats a token from the reference, {one.worst_nats:.3f} at most; "
            f"the same most likely token in {one.same_top:.1%} of {one.n_tokens}"
        )
    return 0


def _parity(folder: Path, model: Path) -> tuple[Parity, ...]:
    from edgeinfer.runner.parity import parity

    return parity(folder, model)


def golden_line(n_tokens: int, worst: float) -> str:
    if not n_tokens:
        return "none recorded"
    return f"{n_tokens} recorded tokens, plain and in rounds; logits within {worst:.4f}"
