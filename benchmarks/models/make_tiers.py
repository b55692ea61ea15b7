"""The models of the speculation report: `python -m benchmarks.models.make_tiers demo.F16.gguf FOLDER`.

The demo and its 1B shape, each at Q4_0 (pure), Q8_0, Q4_K_M and F16; 4.5 GB in all.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Final

from benchmarks.models.ggufs import rewrite
from benchmarks.models.make_demo import EXIT_LAYER
from benchmarks.models.widen import widen
from edgeinfer.backends.gguf.quantize import quantize

TIERS: Final = ("Q4_0", "Q8_0", "Q4_K_M")


def make_models(source: Path, folder: Path) -> list[Path]:
    """Write what is not there yet; the files in the order in which they are best measured."""
    folder.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    for name in ("demo", "demo-1b"):
        whole = folder / f"{name}.F16.gguf"
        if not whole.exists():
            part = whole.with_suffix(".part")
            if name == "demo":
                rewrite(source, part, {"edgeinfer.exit_layer": EXIT_LAYER})
            else:
                widen(source, part)
            shutil.move(part, whole)
        for tier in TIERS:
            out = folder / f"{name}.{tier}.gguf"
            if not out.exists():
                quantize(whole, out, tier, pure=tier == "Q4_0")
            made.append(out)
        made.append(whole)
    return made


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.make_tiers", description=__doc__)
    parser.add_argument("source", type=Path, help="demo.F16.gguf")
    parser.add_argument("folder", type=Path)
    options = parser.parse_args(arguments)
    models = make_models(options.source, options.folder)
    sys.stdout.write(" ".join(f"--model {path}" for path in models) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
