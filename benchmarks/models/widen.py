"""A small model's weights in the shape of a 1B model: `python -m benchmarks.models.widen demo.F16.gguf wide.F16.gguf`.

Bytes and arithmetic of a model of 1B parameters, and the small model's own answers: the new rows and columns are zeros,
the new heads attend to nothing that is used, and layers between the old ones add nothing. The demo gets the shape of
Llama 3.2 1B. A model of more layers gets a narrower shape of as many bytes. With `--tier Q4_0` the result is quantized
too. `wide_draft.py` does the same to a taught draft.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from benchmarks.models.ggufs import Value, copy_metadata
from edgeinfer.backends.gguf.quantize import quantize

if TYPE_CHECKING:
    import numpy.typing as npt

    Array: TypeAlias = npt.NDArray[np.floating]
    Tensors: TypeAlias = dict[str, Array]

__all__ = [
    "DEEP",
    "WIDE",
    "WideShape",
    "main",
    "matrices_of_layer",
    "narrow_shape",
    "padded",
    "places",
    "shape_for",
    "widen",
    "widened_norm",
]


@dataclass(frozen=True, slots=True)
class WideShape:
    n_layers: int
    hidden: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_ffn: int
    exit_layer: int


WIDE = WideShape(n_layers=16, hidden=2048, n_heads=32, n_kv_heads=8, head_dim=64, n_ffn=8192, exit_layer=4)
DEEP = WideShape(n_layers=32, hidden=1536, n_heads=24, n_kv_heads=8, head_dim=64, n_ffn=5120, exit_layer=0)
_EXIT_KEY = "edgeinfer.exit_layer"


def shape_for(narrow: WideShape) -> WideShape:
    """The 1B shape that holds all layers of `narrow` and one that adds nothing."""
    return WIDE if narrow.n_layers < WIDE.n_layers else DEEP


def widen(source: Path, out: Path, wide: WideShape | None = None) -> None:
    """Write `source` (F16, Llama architecture, tied head) to `out` in the shape `wide`, or in the one for it."""
    from gguf import GGUFReader, GGUFWriter

    reader = GGUFReader(source)
    narrow = narrow_shape(reader.fields)
    wide = wide or shape_for(narrow)
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    writer = GGUFWriter(out, "llama")
    eps = float(reader.fields["llama.attention.layer_norm_rms_epsilon"].contents())
    changed: dict[str, Value] = {
        "general.name": f"{reader.fields['general.name'].contents()} in the shape of a 1B model",
        "llama.embedding_length": wide.hidden,
        "llama.block_count": wide.n_layers,
        "llama.feed_forward_length": wide.n_ffn,
        "llama.attention.head_count": wide.n_heads,
        "llama.attention.head_count_kv": wide.n_kv_heads,
        # RMSNorm takes its mean over all channels, most of which are now zero
        "llama.attention.layer_norm_rms_epsilon": eps * narrow.hidden / wide.hidden,
        _EXIT_KEY: wide.exit_layer,
    }
    copy_metadata(reader, writer, {key: value for key, value in changed.items() if key in reader.fields})
    writer.add_tensor("token_embd.weight", padded(tensors["token_embd.weight"], columns=wide.hidden))
    writer.add_tensor("output_norm.weight", widened_norm(tensors["output_norm.weight"], wide))
    for at, old in enumerate(places(narrow.n_layers, wide.n_layers)):
        layer = _idle_layer(wide, at) if old is None else _wide_layer(tensors, f"blk.{old}.", narrow, wide)
        for name, values in layer.items():
            writer.add_tensor(f"blk.{at}.{name}.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def narrow_shape(fields: dict[str, object]) -> WideShape:
    def number(key: str) -> int:
        return int(fields[key].contents())  # type: ignore[attr-defined]

    heads, hidden = number("llama.attention.head_count"), number("llama.embedding_length")
    return WideShape(
        n_layers=number("llama.block_count"),
        hidden=hidden,
        n_heads=heads,
        n_kv_heads=number("llama.attention.head_count_kv"),
        head_dim=hidden // heads,
        n_ffn=number("llama.feed_forward_length"),
        exit_layer=number(_EXIT_KEY) if _EXIT_KEY in fields else 0,
    )


def places(n_old: int, n_new: int) -> list[int | None]:
    """Which old layer stands at each new place: one idle layer after each group of old ones."""
    group = n_old // (n_new - n_old)
    found: list[int | None] = []
    for old in range(n_old):
        found.append(old)
        if (old + 1) % group == 0:
            found.append(None)
    return found


def padded(values: Array, *, rows: int = 0, columns: int = 0) -> Array:
    out = np.zeros((rows or values.shape[0], columns or values.shape[1]), values.dtype)
    out[: values.shape[0], : values.shape[1]] = values
    return out


def widened_norm(weight: Array, wide: WideShape) -> Array:
    """The mean of squares is over more channels, so the weight shrinks by the root of the ratio."""
    out = np.zeros(wide.hidden, np.float32)
    out[: len(weight)] = weight * np.sqrt(len(weight) / wide.hidden)
    return out


def _wide_layer(tensors: Tensors, prefix: str, narrow: WideShape, wide: WideShape) -> Tensors:
    old = {name: tensors[f"{prefix}{name}.weight"] for name in _MATRICES}
    return {
        "attn_norm": widened_norm(tensors[f"{prefix}attn_norm.weight"], wide),
        "ffn_norm": widened_norm(tensors[f"{prefix}ffn_norm.weight"], wide),
        **matrices_of_layer(old, narrow, wide),
    }


def matrices_of_layer(old: Tensors, narrow: WideShape, wide: WideShape) -> Tensors:
    """The seven matrices of a Llama layer, by their names in a GGUF without the layer's number."""
    return {
        "attn_q": _heads_moved(padded(old["attn_q"], columns=wide.hidden), narrow, wide),
        "attn_k": padded(old["attn_k"], rows=wide.n_kv_heads * wide.head_dim, columns=wide.hidden),
        "attn_v": padded(old["attn_v"], rows=wide.n_kv_heads * wide.head_dim, columns=wide.hidden),
        "attn_output": _heads_moved(padded(old["attn_output"].T, columns=wide.hidden), narrow, wide).T.copy(),
        "ffn_gate": padded(old["ffn_gate"], rows=wide.n_ffn, columns=wide.hidden),
        "ffn_up": padded(old["ffn_up"], rows=wide.n_ffn, columns=wide.hidden),
        "ffn_down": padded(old["ffn_down"], rows=wide.hidden, columns=wide.n_ffn),
    }


_MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def _heads_moved(rows: Array, narrow: WideShape, wide: WideShape) -> Array:
    """[heads x head_dim, D]: each query head goes to a place that has the same KV head."""
    old_group, new_group = narrow.n_heads // narrow.n_kv_heads, wide.n_heads // wide.n_kv_heads
    out = np.zeros((wide.n_heads, wide.head_dim, rows.shape[1]), rows.dtype)
    for head, values in enumerate(rows.reshape(narrow.n_heads, narrow.head_dim, -1)):
        out[new_group * (head // old_group) + head % old_group] = values
    return out.reshape(-1, rows.shape[1])


def _idle_layer(wide: WideShape, seed: int) -> Tensors:
    """Weights that cost what any cost, behind output projections of zeros."""
    noise = np.random.default_rng(seed)

    def random(rows: int, columns: int) -> Array:
        return (noise.standard_normal((rows, columns), dtype=np.float32) * 0.02).astype(np.float16)

    kv, heads = wide.n_kv_heads * wide.head_dim, wide.n_heads * wide.head_dim
    return {
        "attn_norm": np.ones(wide.hidden, np.float32),
        "ffn_norm": np.ones(wide.hidden, np.float32),
        "attn_q": random(heads, wide.hidden),
        "attn_k": random(kv, wide.hidden),
        "attn_v": random(kv, wide.hidden),
        "attn_output": np.zeros((wide.hidden, heads), np.float16),
        "ffn_gate": random(wide.n_ffn, wide.hidden),
        "ffn_up": random(wide.n_ffn, wide.hidden),
        "ffn_down": np.zeros((wide.hidden, wide.n_ffn), np.float16),
    }


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.models.widen", description=__doc__)
    parser.add_argument("source", type=Path, help="an F16 file of a Llama model with a tied head")
    parser.add_argument("out", type=Path)
    parser.add_argument("--tier", default="", help="quantize the result, every matrix alike: Q4_0, Q8_0")
    options = parser.parse_args(arguments)
    if not options.tier:
        widen(options.source, options.out)
        return
    whole = options.out.with_name(options.out.name + ".F16")
    try:
        widen(options.source, whole)
        quantize(whole, options.out, options.tier, pure=True)
    finally:
        whole.unlink(missing_ok=True)


if __name__ == "__main__":
    main(sys.argv[1:])
