"""`python -m benchmarks MEASURE`, from the root of a checkout."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from edgeinfer.errors import EdgeInferError

MEASURES = {
    "cpu_kernels": "what rows and prompts cost on llama.cpp, with our kernels and with ggml's",
    "draft_agreement": "how often a taught draft is right, by depth and temperature",
    "endurance": "a chat far past its window: memory and speed at the start and at the end",
    "expected_speed": "the plan's expected speed against what this machine reaches",
    "lookup_priors": "the priors of prompt lookup, fitted to answers to prompts that are not in the bench",
    "mlx_drafts": "taught drafts on MLX against the reference: tokens and acceptance",
    "memory": "the plan's estimate against measured peak memory",
    "perplexity": "perplexity of tiers, windows and K/V types",
    "predicted_speed": "the plan's expected speed against published runs",
    "speculation": "the report of `edgeinfer bench speculation`, judged by the project's targets",
    "tensor_types": "speed and exact rows of llama.cpp's kernels, by tensor type",
    "traffic": "bytes that the Metal kernels read, by arithmetic",
    "window": "the window on llama.cpp against the NumPy reference, for every K/V type",
}


def main(argv: Sequence[str]) -> int:
    listed = "\n".join(f"  {name:<16} {what}" for name, what in MEASURES.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="python -m benchmarks MEASURE [--help] [...]",
        description=listed,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("measure", metavar="MEASURE", choices=MEASURES)
    name = parser.parse_args(argv[:1]).measure
    module = importlib.import_module(f"benchmarks.{name}")
    one = argparse.ArgumentParser(prog=f"python -m benchmarks {name}", description=MEASURES[name])
    module.add_arguments(one)
    try:
        code: int = module.run(one.parse_args(argv[1:]))
    except EdgeInferError as error:
        sys.stderr.write(f"error: {error}\n" + (f"hint: {error.hint}\n" if error.hint else ""))
        return error.exit_code
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
