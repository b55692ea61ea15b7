"""A draft's layer as a GGUF model, which llama.cpp runs from embeddings.

It is the one layer of a feature draft. Before that of an exit draft stand copies of the model's first layers.

Its vocabulary is the ranked tokens, then one token for each dimension of the state: the head's last rows are the
identity, so that a row of logits ends with the normed state, which the next draft needs. The norm's weight is in the
head's rows, not in the norm.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from edgeinfer.errors import ArtifactError
from edgeinfer.formats.draft_file import DraftFile
from edgeinfer.formats.gguf_header import GgufHeader
from edgeinfer.formats.gguf_rows import TensorRows, read_vector

if TYPE_CHECKING:
    from edgeinfer.backends.gguf.llama import Floats

__all__ = ["write_layer"]

_NORMS: Final = ("attn_norm", "ffn_norm")
_MATRICES: Final = ("attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
_LARGE: Final = frozenset({"F32", "F16", "BF16"})  # types of the model's matrices that are copied as Q8_0


def write_layer(out: Path, draft: DraftFile, model: GgufHeader, path: Path) -> None:
    """Write `draft` to `out`, for the checked `model` of the file at `path`.

    Raises ArtifactError for an exit draft of a model whose layers are no plain Llama layers.
    Matrices are Q8_0 where rows are whole blocks, else F16; those of the model's layers are of its own types if these
    are smaller.
    """
    import gguf

    shape = draft.shape
    writer = gguf.GGUFWriter(out, "llama")
    _add_shape(writer, draft, model)
    if "rope_freqs.weight" in model.by_name:  # llama3's scaling
        writer.add_tensor("rope_freqs.weight", read_vector(path, model.by_name["rope_freqs.weight"]))
    weight = draft.tensor("output_norm")
    head = TensorRows(path, model.by_name.get("output.weight", model.by_name["token_embd.weight"]))
    rows = np.concatenate([head(draft.ranked_tokens) * weight, np.eye(shape.hidden, dtype=np.float32)])
    _add_matrix(writer, "token_embd", rows)
    writer.add_tensor("output_norm.weight", np.ones(shape.hidden, np.float32))
    for layer in range(draft.exit_layer):
        _copy_layer(writer, path, model, layer)
    at = f"blk.{draft.exit_layer}"
    for name in _NORMS:
        writer.add_tensor(f"{at}.{name}.weight", draft.tensor(name))
    for name, n_heads in (("attn_q", shape.n_heads), ("attn_k", shape.n_kv_heads)):
        matrix = draft.tensor(name)
        _add_matrix(writer, f"{at}.{name}", matrix if shape.architecture == "llama" else _interleaved(matrix, n_heads))
    for name in _MATRICES:
        _add_matrix(writer, f"{at}.{name}", draft.tensor(name))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _copy_layer(writer: Any, path: Path, model: GgufHeader, layer: int) -> None:
    import gguf

    found = {name for name in model.by_name if name.startswith(f"blk.{layer}.")}
    odd = sorted(found ^ {f"blk.{layer}.{name}.weight" for name in ("attn_q", "attn_k", *_NORMS, *_MATRICES)})
    if odd:
        raise ArtifactError(f"an exit draft copies plain Llama layers, and {path.name} differs in {odd[0]}")
    for name in _NORMS:
        writer.add_tensor(f"blk.{layer}.{name}.weight", read_vector(path, model.by_name[f"blk.{layer}.{name}.weight"]))
    for name in ("attn_q", "attn_k", *_MATRICES):
        info = model.by_name[f"blk.{layer}.{name}.weight"]
        if info.type.name in _LARGE:
            _add_matrix(writer, f"blk.{layer}.{name}", TensorRows(path, info)(range(info.shape[1])))
            continue
        raw = np.memmap(path, np.uint8, "r", info.offset, (info.shape[1], info.n_bytes // info.shape[1]))
        kind = gguf.GGMLQuantizationType[info.type.name]
        writer.add_tensor(f"blk.{layer}.{name}.weight", np.array(raw), raw_dtype=kind)


def _add_shape(writer: Any, draft: DraftFile, model: GgufHeader) -> None:
    import gguf

    shape = draft.shape
    architecture = shape.architecture

    def of_the_model(key: str, default: float) -> float:
        value = model.metadata.get(f"{architecture}.{key}", default)
        return float(value) if isinstance(value, int | float) else default

    writer.add_context_length(int(of_the_model("context_length", 1)))
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(draft.exit_layer + 1)
    writer.add_feed_forward_length(shape.n_ffn)
    writer.add_head_count(shape.n_heads)
    writer.add_head_count_kv(shape.n_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(draft.norm_eps)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(of_the_model("rope.freq_base", 10000.0))
    if model.metadata.get(f"{architecture}.rope.scaling.type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(of_the_model("rope.scaling.factor", 1.0))
    writer.add_vocab_size(len(draft.ranked_tokens) + shape.hidden)
    writer.add_tokenizer_model("no_vocab")


def _add_matrix(writer: Any, name: str, values: Floats) -> None:
    import gguf

    if values.shape[1] % 32:
        writer.add_tensor(f"{name}.weight", values.astype(np.float16))
        return
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor(f"{name}.weight", gguf.quantize(np.ascontiguousarray(values), kind), raw_dtype=kind)


def _interleaved(matrix: Floats, n_heads: int) -> Floats:
    """Rows for a RoPE that turns neighbors, of a matrix [heads x head_dim, in] whose RoPE turns halves."""
    pairs = matrix.reshape(n_heads, 2, -1, matrix.shape[1]).swapaxes(1, 2)
    return pairs.reshape(matrix.shape)
