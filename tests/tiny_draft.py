"""Drafts for a tiny model that are sometimes right: its first layer over the token and its taps, or its third layer
after an exit."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from edgeinfer.formats.draft_file import shape_of
from edgeinfer.formats.gguf_header import read_header
from edgeinfer.formats.shape import shape_from_gguf

N_RANKED = 224  # of the 288 tokens of the tiny model
LAYER = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
FEATURE_GAIN = 0.7  # weight of the taps relative to the token; a wrong tap shows


def write_safetensors(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Any]) -> Path:
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    at = 0
    for name, values in tensors.items():
        kind = {"float16": "F16", "float32": "F32", "int32": "I32", "int64": "I64"}[values.dtype.name]
        header[name] = {"dtype": kind, "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(values.tobytes() for values in tensors.values()))
    return path


def write_tiny_draft(
    path: Path,
    model: Path,
    taps: Sequence[int] = (),
    *,
    exit_layer: int = 0,
    seed: int = 0,
    by_vocabulary: object = None,
) -> Path:
    """Write a draft for the model in the file `model`, and return its path: with `exit_layer` an exit draft."""
    import gguf

    shape = shape_of(shape_from_gguf(read_header(model)))
    of_model = {
        tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for tensor in gguf.GGUFReader(model).tensors
    }
    rng, hidden = np.random.default_rng(seed), shape.hidden

    def matrix(n_out: int, n_in: int, gain: float = 1.0) -> Any:
        return (rng.standard_normal((n_out, n_in)) * gain / np.sqrt(n_in)).astype(np.float32)

    tensors = {f"{name}.weight": of_model[f"blk.{exit_layer}.{name}.weight"] for name in LAYER}
    tensors |= {
        "output_norm.weight": of_model["output_norm.weight"],
        "ranked_tokens": rng.permutation(shape.n_vocab)[:N_RANKED].astype(np.int32),
    }
    if taps:
        tensors |= {
            "token_norm.weight": np.ones(hidden, np.float32),
            "feature_norm.weight": (1 + 0.1 * rng.standard_normal(hidden)).astype(np.float32),
            "join.weight": np.concatenate(
                [np.eye(hidden, dtype=np.float32), matrix(hidden, hidden, FEATURE_GAIN)], axis=1
            ),
            "taps.weight": matrix(hidden, len(taps) * hidden),
        }
    metadata = {name: value if isinstance(value, str) else json.dumps(value) for name, value in asdict(shape).items()}
    metadata |= {
        "format": "1", "kind": "feature" if taps else "exit", "norm_eps": "1e-05", "base": "org/tiny",
        "taught_on": "0" * 64, "license": "apache-2.0", "agreement": "[0.5, 0.5]",
    }  # fmt: skip
    metadata |= {"taps": json.dumps(list(taps))} if taps else {"exit_layer": json.dumps(exit_layer)}
    if by_vocabulary is not None:
        metadata["by_vocabulary"] = json.dumps(by_vocabulary)
    return write_safetensors(path, metadata, tensors)


def draft_beside(model: Path) -> Path:
    return Path(str(model).removesuffix(".gguf") + ".draft.safetensors")
