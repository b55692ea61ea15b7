"""Makes the embedded demo file: `python -m benchmarks.models.make_demo demo.F16.gguf edgeinfer/models/demo.Q4_0.gguf`.

Pure Q4_0, so that rows of a batch round as single rows do and tokens can be compared exactly.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.models.ggufs import Value, rewrite
from edgeinfer.backends.gguf.quantize import quantize

EXIT_LAYER = 3


def make_demo(source: Path, out: Path, licenses: Path) -> None:
    """Write `source` (F16, with tokenizer and chat template) to `out`: pure Q4_0, license notes, exit layer."""
    notes: dict[str, Value] = {
        "general.license": "apache-2.0",
        "general.license.name": "Apache License 2.0; the training texts keep their own licenses",
        "general.size_label": "46M",
        "general.description": "A 46M-parameter demonstration of a small chat model with an early exit; not for facts",
        "edgeinfer.exit_layer": EXIT_LAYER,
        "edgeinfer.sources": licenses.read_text(encoding="utf-8"),
    }
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        annotated = Path(folder) / "annotated.gguf"
        rewrite(source, annotated, notes)
        quantize(annotated, out, "Q4_0", pure=True, search=True)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.make_demo", description=__doc__)
    parser.add_argument("source", type=Path, help="the F16 file")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--licenses", type=Path, default=Path(__file__).parent.parent / "models" / "LICENSES.md", help="licence notes"
    )
    options = parser.parse_args(arguments)
    make_demo(options.source, options.out, options.licenses)


if __name__ == "__main__":
    main(sys.argv[1:])
