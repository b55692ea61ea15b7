"""The models of the speculation reports: `python -m benchmarks.models.make_tiers demo.F16.gguf FOLDER`.

The demo and its 1B shape, each at Q4_0 (pure), Q8_0, Q4_K_M and F16; 4.5 GB in all. Another model takes `--name NAME`;
one that is quantized already is brought to F16 first. Each `--draft FILE` that was taught to it is written beside it
in both shapes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from benchmarks.models.ggufs import rewrite
from benchmarks.models.make_demo import EXIT_LAYER
from benchmarks.models.wide_draft import widen_draft
from benchmarks.models.widen import widen
from edgeinfer.backends.gguf.quantize import quantize
from edgeinfer.formats.draft_file import SUFFIX, read_draft_file

TIERS: Final = ("Q4_0", "Q8_0", "Q4_K_M")


def make_models(source: Path, folder: Path, *, name: str = "demo", drafts: Sequence[Path] = ()) -> list[Path]:
    """Write what is not there yet; the files in the order in which they are best measured."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    small = folder / f"{name}.F16.gguf"
    for shape in (name, f"{name}-1b"):
        whole = folder / f"{shape}.F16.gguf"
        if not whole.exists():
            part = whole.with_suffix(".part")
            if whole != small:
                widen(small, part)
            elif name == "demo":
                rewrite(source, part, {"edgeinfer.exit_layer": EXIT_LAYER})
            else:
                quantize(source, part, "F16", requantize=True)
            shutil.move(part, whole)
        for draft in drafts:
            out = folder / f"{shape}.{read_draft_file(draft).kind}{SUFFIX}"
            if whole == small:
                shutil.copyfile(draft, out)
            else:
                widen_draft(draft, small, whole, out)
        for tier in TIERS:
            out = folder / f"{shape}.{tier}.gguf"
            if not out.exists():
                quantize(whole, out, tier, pure=tier == "Q4_0")
            made.append(out)
        made.append(whole)
    return made


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.make_tiers", description=__doc__)
    parser.add_argument("source", type=Path, help="demo.F16.gguf")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--name", default="demo", help="of the files that are written")
    parser.add_argument("--draft", action="append", default=[], type=Path, metavar="FILE", help="repeatable")
    options = parser.parse_args(arguments)
    models = make_models(options.source, options.folder, name=options.name, drafts=options.draft)
    sys.stdout.write(" ".join(f"--model {path}" for path in models) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
