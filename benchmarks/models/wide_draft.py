"""A taught draft in the shape of `widen.py`: `python -m benchmarks.models.wide_draft DRAFT NARROW.gguf WIDE.gguf`.

It is written beside the wide model and guesses what the narrow draft guesses for the narrow model. What differs is the
epsilon of the tapped states' norm, which weighs more where the mean is over more channels; states are far larger.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.models.widen import WideShape, matrices_of_layer, narrow_shape, padded, places, widened_norm
from edgeinfer.formats.draft_file import SUFFIX, DraftFile, read_draft_file, shape_of
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.shape import shape_from_gguf

if TYPE_CHECKING:
    from benchmarks.models.widen import Array, Tensors

__all__ = ["main", "widen_draft"]

_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def widen_draft(source: Path, narrow_model: Path, wide_model: Path, out: Path) -> None:
    """Write the draft `source`, which is for `narrow_model`, to `out`, for `wide_model`."""
    from gguf import GGUFReader
    from safetensors.numpy import save_file

    draft = read_draft_file(source)
    narrow, wide = (narrow_shape(GGUFReader(path).fields) for path in (narrow_model, wide_model))
    tensors = _wide_tensors(draft, narrow, wide)
    save_file(
        {name: np.ascontiguousarray(values) for name, values in tensors.items()},
        out,
        _metadata(draft, narrow, wide, wide_model),
    )


def _wide_tensors(draft: DraftFile, narrow: WideShape, wide: WideShape) -> Tensors:
    layer = matrices_of_layer({name: draft.tensor(name) for name in _MATRICES}, narrow, wide)
    norms = ["attn_norm", "ffn_norm", "output_norm"]
    if draft.kind == "feature":
        norms += ["token_norm", "feature_norm"]
        scale = np.float32(np.sqrt(wide.hidden / narrow.hidden))  # of states that are normed without a weight
        layer["join"] = _widened_blocks(draft.tensor("join"), 2, wide)
        layer["taps"] = _widened_blocks(draft.tensor("taps"), len(draft.taps), wide) / scale
    layer |= {name: widened_norm(draft.tensor(name), wide) for name in norms}
    found: Tensors = {f"{name}.weight": values.astype(np.float32) for name, values in layer.items()}
    return {**found, "ranked_tokens": draft.ranked_tokens}  # type: ignore[dict-item]


def _widened_blocks(matrix: Array, n_blocks: int, wide: WideShape) -> Array:
    """[D, n x D] in the wide shape, where each of the n blocks has its own new columns."""
    blocks = np.split(matrix, n_blocks, axis=1)
    return np.concatenate([padded(block, rows=wide.hidden, columns=wide.hidden) for block in blocks], axis=1)


def _metadata(draft: DraftFile, narrow: WideShape, wide: WideShape, wide_model: Path) -> Mapping[str, str]:
    layers = places(narrow.n_layers, wide.n_layers)
    run = [0, *(1 + layers.index(old) for old in range(narrow.n_layers - 1)), wide.n_layers]  # layers run, by old ones
    shape = asdict(shape_of(shape_from_gguf(read_header(wide_model))))
    values: dict[str, object] = {
        **draft.header.metadata,
        **shape,
        "norm_eps": draft.norm_eps * narrow.hidden / wide.hidden,
        "base": f"{draft.base_model} in a 1B shape",
    }
    if draft.kind == "feature":
        values["taps"] = [run[tap] for tap in draft.taps]
    else:
        values["exit_layer"] = run[draft.exit_layer]
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.wide_draft", description=__doc__)
    parser.add_argument("draft", type=Path)
    parser.add_argument("narrow", type=Path)
    parser.add_argument("wide", type=Path)
    options = parser.parse_args(arguments)
    kind = read_draft_file(options.draft).kind
    out = options.wide.with_name(f"{options.wide.name.removesuffix('.gguf')}.{kind}{SUFFIX}")
    widen_draft(options.draft, options.narrow, options.wide, out)
    sys.stdout.write(f"{out}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
